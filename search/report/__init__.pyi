from ._dashboard import serve_dashboard as serve_dashboard
from ._picture import write_front_svg as write_front_svg
from ._report import write_report as write_report
from ._table import LEGEND as LEGEND
from ._table import certainty_note as certainty_note
from ._table import front_csv as front_csv
from ._table import front_json as front_json
from ._table import print_table as print_table
