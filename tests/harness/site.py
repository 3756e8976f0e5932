"""What the documentation as a site has beside docs/: texts at the top of the repository, references from the code."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import ups_models
from flows.cli.views.config import reference
from ups_models.config.schema import EvalConfig, PipelineConfig

ROOT = Path(__file__).resolve().parents[2]
AT_THE_TOP = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
CODE_LINK = re.compile(r"\[([^\]]+)\]\((?:\.\./)*(?:ups_models|tasks|flows|tests|configs|deployments)/[^)]*\)")
NOTEBOOKS = ("docs/examples/burgers.ipynb",)


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages."""
    pages = {name: (ROOT / name).read_text("utf-8") for name in AT_THE_TOP}
    pages["reference/api.md"] = _api()
    pages["reference/config.md"] = _config()
    for name in NOTEBOOKS:
        pages[name.removeprefix("docs/").replace(".ipynb", ".md")] = notebook(ROOT / name)
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they work in the repository, for the site: everything lies in one folder there, and code does not."""
    above = "../" * page.file.src_uri.count("/")
    text = CODE_LINK.sub(r"`\1`", markdown)
    text = text.replace("](docs/adr)", "](adr/0001-record-decisions.md)") if page.file.src_uri in AT_THE_TOP else text
    if page.file.src_uri in AT_THE_TOP:
        return text.replace("](docs/", "](")
    return re.sub(rf"\]\((?:\.\./)+({'|'.join(map(re.escape, AT_THE_TOP))})", rf"]({above}\1", text)


def _api() -> str:
    parts = "".join(f"::: ups_models.{name}\n\n" for name in ups_models.__all__)
    return f"# The public names\n\n`from ups_models import …`\n\n{parts}"


def _config() -> str:
    tables = ("A pipeline's config", PipelineConfig), ("An evaluation's config", EvalConfig)
    parts = "".join(f"## {title}\n\n{_as_list(reference(schema, ''))}\n\n" for title, schema in tables)
    return f"# Every key of a config\n\nThe same as `ups config docs`.\n\n{parts}"


def _as_list(text: str) -> str:
    rows = (line.partition(": ") for line in text.splitlines() if line.strip())
    return "\n".join(f"- `{key}`: {meaning}" for key, _, meaning in rows)


def notebook(path: Path) -> str:
    """A notebook's texts and code, as a page."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    blocks = {"markdown": "{}", "code": "```python\n{}\n```"}
    return "\n\n".join(blocks[cell["cell_type"]].format("".join(cell["source"])) for cell in cells) + "\n"
