"""The site: Sphinx with myst-nb over the lessons as committed, the pages of docs/ and the docstrings.

The source is the whole repository, so that its files link to each other as they do anywhere: `make site`.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import course_lib  # noqa: E402

project = "Classifying sounds with PyTorch"
author = "The authors of the audio course"
release = course_lib.__version__
copyright = "the authors of the audio course"
html_title = project

root_doc = "README"
SHOWN = {"README.md", "docs", "notebooks", "results"}
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in SHOWN] + ["**.ipynb_checkpoints"]
include_patterns = ["README.md", "docs/**.md", "notebooks/*.ipynb", "results/README.md"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "tools.site.cells",
    "tools.site.docstrings",
    "tools.site.formulas",
    "tools.site.pages",
]

site_menu = {
    "Lessons": ["notebooks/*"],
    "Results and guides": [
        "results/README",
        "docs/install",
        "docs/own_sounds",
        "docs/report*",
        "docs/data",
        "docs/gammatone_layer",
        "docs/experiments",
        "docs/environment",
        "docs/*",
    ],
    "For teachers": ["docs/teaching/*"],
    "Reference": [
        f"docs/reference/{page}"
        for page in (
            "library audio datasets clips layers models training evaluation figures experiments kept_models lesson "
            "exercises report tools"
        ).split()
    ],
}

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # nothing is loaded from elsewhere
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "smartquotes"]
myst_heading_anchors = 3

highlight_language = "text"
html_math_renderer = "mathml"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {
    "logo": {"text": project},
    "use_fullscreen_button": False,
    "use_download_button": True,
    "show_toc_level": 2,
    "footer_content_items": ["copyright.html"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_use_index = False
html_domain_indices = False
html_show_sourcelink = False
