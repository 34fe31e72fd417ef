"""``cellgap check``: everything that is wrong or suspicious about data and design, in seconds."""

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cellgap.cli._say import show


def check(data: Path, /, *, design: Path, as_json: Annotated[bool, Parameter(name="--json")] = False) -> int:
    """List what is wrong or suspicious about data and design; exit code 2 where something is wrong.

    Parameters
    ----------
    data
        The cells: an .h5ad file or a .zarr folder.
    design
        TOML file that says which columns mean what.
    as_json
        Print JSON instead of a table.
    """
    from cellgap.study import Design
    from cellgap.study import check as examine
    from cellgap.study._read import open_study_file

    read = Design.read(design)
    findings = examine(open_study_file(data, backed=True), read)
    if as_json:
        content = {
            "ok": findings.ok,
            "measured": findings.measured,
            "errors": [{"type": type(e).__name__, "message": str(e)} for e in findings.errors],
            "warnings": list(findings.warnings),
            "populations": findings.table.to_dict("records"),
        }
        print(json.dumps(content, indent=1))
    else:
        show(findings)
    return 0 if findings.ok else 2
