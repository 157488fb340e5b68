from ._dashboard import serve_dashboard as serve_dashboard
from ._report import write_report as write_report
from ._table import front_csv as front_csv
from ._table import front_json as front_json
from ._table import print_table as print_table
