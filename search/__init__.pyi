from .export import load_network as load_network
from .library import Deployment as Deployment
from .library import Front as Front
from .library import Study as Study
from .library import StudyRecord as StudyRecord
from .library import TunedRecipe as TunedRecipe
from .library import tune as tune
from .study import Constraints as Constraints
from .study import SearchSettings as SearchSettings
from .study import StudyFile as StudyFile
from .study import TeacherTable as TeacherTable

__version__: str
