"""Which data sets there are: those of the course, and those that a learner adds.

Notebook: 02_spoken_digits_cnn
"""

import importlib
import importlib.util
import pkgutil
import sys
from pathlib import Path

from course_lib import datasets, environment
from course_lib.datasets import folder
from course_lib.datasets.dataset import Dataset
from course_lib.datasets.recordings import DatasetError

ENTRIES: dict[str, Dataset] = {}


def register(dataset: Dataset) -> Dataset:
    """Add a data set to the catalogue, under its name, for recipes, results, tables and the command line.

    The same can be done for every process by naming the file that defines `DATASET` in `COURSE_DATASETS`.
    Raises DatasetError where another data set of the course has that name.

    Notebook: 02_spoken_digits_cnn
    """
    if dataset.name in _SHIPPED:
        raise DatasetError(f"the course has a data set {dataset.name}; give yours another name")
    ENTRIES[dataset.name] = dataset
    return dataset


def known() -> dict[str, Dataset]:
    """All data sets by name, those of `COURSE_DATASETS` among them. Raises DatasetError for a file that is none."""
    for file in environment.dataset_files():
        if file not in _FILES_READ:
            dataset = _from_file(file)
            if dataset.name in ENTRIES.keys() - _SHIPPED.keys():
                raise DatasetError(f"COURSE_DATASETS: {file} defines {dataset.name}, as something else did before it")
            register(dataset)
            _FILES_READ.add(file)
    return ENTRIES


def get(name: str | Dataset) -> Dataset:
    """The data set of that name, or a folder of class folders by its path; a Dataset is returned as it is.

    Raises DatasetError naming those there are.

    Notebook: 02_spoken_digits_cnn
    """
    if isinstance(name, Dataset):
        return name
    if name in known():
        return ENTRIES[name]
    try:
        path = Path(name).expanduser()
        if name.strip() and path.is_dir():
            return folder.dataset(path)
    except (OSError, RuntimeError, ValueError):  # a name that no path can have, or a home that is not there
        pass
    raise DatasetError(
        f"there is no data set or folder {name!r}; known: {', '.join(ENTRIES)}, or a folder of class folders"
    )


def _from_file(path: Path) -> Dataset:
    try:
        spec = importlib.util.spec_from_file_location(f"course_dataset_{len(_FILES_READ)}_{path.stem}", path)
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # pydantic looks for types there
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the file is a learner's, and may raise anything
        raise DatasetError(f"COURSE_DATASETS: {path} cannot be used ({type(error).__name__}: {error})") from error
    dataset = getattr(module, "DATASET", None)
    if not isinstance(dataset, Dataset):
        raise DatasetError(f"COURSE_DATASETS: {path} must end in DATASET = Dataset(...)")
    return dataset


def _shipped() -> dict[str, Dataset]:
    """The data sets of the course: whatever module of this package defines a `DATASET`."""
    names = [module.name for module in pkgutil.iter_modules(datasets.__path__) if not module.ispkg]
    modules = [importlib.import_module(f"{datasets.__name__}.{name}") for name in names if name != "catalogue"]
    return {module.DATASET.name: module.DATASET for module in modules if hasattr(module, "DATASET")}


_FILES_READ: set[Path] = set()
_SHIPPED = _shipped()
ENTRIES.update(_SHIPPED)
