"""``cellgap ask``: answers with their conditions and sources, on the terminal and on a local page."""

import json as _json
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cellgap.cli._ask_bench import bench
from cellgap.cli._ask_sources import Endpoint, Sources
from cellgap.cli._say import note, show, warn
from cellgap.errors import ConfigError

app = App(
    name="ask",
    help="What is known or predicted about a treatment: one answer a condition, with citations of rows and passages.",
)

Flag = Annotated[bool, Parameter(negative="")]
Many = Annotated[tuple[str, ...], Parameter(negative="")]
Flat = Parameter(name="*")

app.command(bench)


@app.default
def ask(
    question: str,
    /,
    *,
    sources: Annotated[Sources | None, Flat] = None,
    endpoint: Annotated[Endpoint | None, Flat] = None,
    json: Flag = False,
    report: Path | None = None,
    quiet: Flag = False,
) -> int:
    """Answer a question: one answer for each condition, or none with the reason.

    Parameters
    ----------
    question
        Such as "what does trametinib do in A549?". What it binds (cell line, dose, time, readout) narrows the answers.
    json
        Print the answers as JSON, with everything that is known of how they came about.
    report
        Write a page of the answers too, one HTML file.
    quiet
        Say nothing but answers and errors.
    """
    from cellgap.cli._ask_print import answers_of

    if report is not None and report.suffix not in (".html", ".htm"):
        raise ConfigError(f"--report must name an .html file, found {str(report)!r}.")
    with (sources or Sources()).asker(endpoint or Endpoint(), quiet=quiet or json) as asker:
        answers = asker.ask(question)
        if report is not None:
            from cellgap.report import write_answers

            write_answers(answers, report, evidence=asker.evidence)
    if json:
        print(_json.dumps(answers.to_dict(), indent=1, ensure_ascii=False))
    else:
        show(*answers_of(answers))
        for told in answers.degraded:
            warn(told.text)
    if report is not None and not (quiet or json):
        show(f"page: {report}")
    return 0


@app.command
def serve(
    *,
    sources: Annotated[Sources | None, Flat] = None,
    endpoint: Annotated[Endpoint | None, Flat] = None,
    host: str = "127.0.0.1",
    port: Annotated[int, Parameter(validator=Number(gte=0, lte=65535))] = 8765,
    open_browser: Annotated[bool, Parameter(name="--open", negative="")] = False,
) -> int:
    """Serve a page with a question box on this machine; nothing leaves it but what an endpoint is asked.

    Parameters
    ----------
    host
        Where to listen; by default only this machine can connect.
    port
        0 takes a free one.
    open_browser
        Open the page in a browser.
    """
    from cellgap.report import serve as serve_page

    with (sources or Sources()).asker(endpoint or Endpoint(), quiet=False) as asker:
        serve_page(asker, host=host, port=port, open_browser=open_browser)
    return 0


@app.command
def index(
    corpus: Annotated[tuple[Path, ...], Parameter(negative="")],
    /,
    *,
    out: Path,
    encoder: Path | None = None,
    quiet: Flag = False,
) -> int:
    """Index a corpus once, so that questions are answered at once; a build that was stopped is continued.

    Parameters
    ----------
    corpus
        Files of passages: .jsonl, .json, .csv, .tsv (title and text), .txt, .md, also .gz, or folders of them.
    out
        Folder to keep the index in; give it to --corpus afterwards.
    encoder
        Folder with the weights of the sentence encoder, if they are not installed.
    quiet
        Say nothing but errors.
    """
    from cellgap.ask import Corpus, Index, find_encoder

    read = Corpus.read(*corpus)
    built = Index.build(read, find_encoder(encoder), folder=out, progress=not quiet)
    if not quiet:
        for told in built.degraded:
            warn(told.text)
        show(f"{len(read):,} passages: {out}", f'next: cellgap ask "..." --corpus {out}')
    return 0


@app.command
def effects(
    run: Path,
    /,
    *,
    out: Path | None = None,
    gene_sets: Path | None = None,
    condition: Many = (),
    data: Path | None = None,
    quiet: Flag = False,
) -> int:
    """Write the table of measured and predicted effects of a run, which answers cite.

    Parameters
    ----------
    run
        Folder of a finished run of `cellgap fit`; the table is kept there as effects.csv.gz.
    out
        Write a copy here too (.csv or .csv.gz).
    gene_sets
        GMT file whose sets become readouts beside the genes.
    condition
        Conditions to predict, instead of those the model never saw; may be given several times.
    data
        Where the run's data are now, if they were moved.
    quiet
        Say nothing but errors.
    """
    import pandas as pd

    from cellgap.cli._ask_effects import effects_of
    from cellgap.cli._run_folder import Run

    if out is not None and not out.name.endswith((".csv", ".csv.gz")):
        raise ConfigError(f"--out must name a .csv or .csv.gz file, found {str(out)!r}.")
    path = effects_of(Run.open(run, data), conditions=condition, gene_sets=gene_sets, quiet=quiet)
    frame = pd.read_csv(path, keep_default_na=False, na_values={"dose": [""], "se": [""]})
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False)
    if not quiet:
        by = frame.groupby("source").size()
        parts = ", ".join(f"{n:,} {source}" for source, n in by.items())
        show(f"{len(frame):,} rows ({parts}): {out or path}", f'next: cellgap ask "..." --run {run}')
        unsure = frame.loc[frame["extrapolates"] != "", ["treatment"]].drop_duplicates()["treatment"]
        if len(unsure):
            note(f"extrapolations: {', '.join(unsure[:5])}{' and more' if len(unsure) > 5 else ''}")
    return 0
