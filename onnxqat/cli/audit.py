"""Commands about what is wrong with a model: audit, rule. They import no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onnxqat.cli import show
from onnxqat.cli.check import capability_of, shape_of
from onnxqat.cli.flags import Backend, ComputeCapability, Json, Shapes
from onnxqat.core.files import check_writable

if TYPE_CHECKING:
    from onnxqat.auditing import AuditConfig, Fixed
    from onnxqat.data import Dataset
    from onnxqat.graph import Graph
    from onnxqat.report.findings import Audited

FOUND = 1
"""Exit code when there are findings."""


def audit(
    model: Path,
    /,
    *,
    select: Annotated[
        tuple[str, ...],
        Parameter(name="--select", negative="", help="Apply only these rules: QDQ001, or QDQ0."),
    ] = (),
    ignore: Annotated[
        tuple[str, ...],
        Parameter(name="--ignore", negative="", help="Leave these rules out: CAL003, or ENG."),
    ] = (),
    fail_on: Annotated[
        Literal["error", "warning", "note"] | None,
        Parameter(name="--fail-on", help="The mildest finding that makes the exit code 1."),
    ] = None,
    profile: Annotated[
        Literal["tensorrt", "rtx"] | None, Parameter(name="--profile", help="The compiler meant.")
    ] = None,
    format: Annotated[
        Literal["text", "json", "sarif", "junit", "html"],
        Parameter(
            name="--format",
            help="text for people; json, sarif and junit for programs; html: a page that loads "
            "nothing, with pictures.",
        ),
    ] = "text",
    fix: Annotated[
        bool,
        Parameter(
            name="--fix",
            negative="",
            help="Mend what can be mended without narrowing a tensor's range, write the model to "
            "--output, and audit that.",
        ),
    ] = False,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="Where --fix writes the model.")
    ] = None,
    compile: Annotated[
        bool,
        Parameter(name="--compile", negative="", help="Also compile, and audit the compiled plan."),
    ] = False,
    backend: Backend = "auto",
    compute_capability: ComputeCapability = "8.9",
    shapes: Shapes = (),
    data: Annotated[
        str | None,
        Parameter(name="--data", help="Samples to run the model on, as for `onnxqat quantize`."),
    ] = None,
    reference: Annotated[
        Path | None, Parameter(name="--reference", help="The float model, to compare with on data.")
    ] = None,
    samples: Annotated[
        int | None,
        Parameter(
            name="--samples", help="How many samples; default 64 for values, all to compare."
        ),
    ] = None,
    config: Annotated[
        Path | None,
        Parameter(
            name="--config",
            help="A TOML file with [audit], or a pyproject.toml with [tool.onnxqat.audit]. Without "
            "it the nearest onnxqat.toml or pyproject.toml above the working folder is read.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None, Parameter(name="--baseline", help="Findings in this file are not told again.")
    ] = None,
    write_baseline: Annotated[
        Path | None,
        Parameter(name="--write-baseline", help="Accept all findings: write them to this file."),
    ] = None,
    json: Json = False,
) -> int:
    """Say what TensorRT would refuse, or silently run in float, in an ONNX file of any tool.

    Needs no GPU. `onnxqat rule CODE` explains a finding. With --data the ranges are checked against
    values, with --reference each layer's error, with --compile what the compiler made of the file.

    Args:
        model: The ONNX file.
    """
    from onnxqat.auditing import audit as audit_stage
    from onnxqat.auditing.audit import chosen
    from onnxqat.auditing.baseline import Baseline
    from onnxqat.core.finding import Severity
    from onnxqat.gather import Target, gather
    from onnxqat.graph import load
    from onnxqat.report.findings import Audited, Mended

    settings = _settings(
        config,
        select=select,
        ignore=ignore,
        fail_on=fail_on and Severity(fail_on),
        profile=profile,
        shapes=dict(shape_of(text) for text in shapes),
        baseline=baseline and str(baseline),
    )
    known = Baseline.load(Path(settings.baseline)) if settings.baseline else Baseline()
    mended = _mended(model, settings, output) if fix else None
    graph = load(model) if mended is None else mended.graph
    evidence = gather(
        graph,
        settings,
        target=Target(backend, capability_of(compute_capability)) if compile else None,
        data=None if data is None else _opened(data, graph),
        reference=reference,
        samples=samples,
    )
    findings = audit_stage(graph, config=settings, evidence=evidence)
    if write_baseline is not None:
        Baseline.of(findings).save(write_baseline)
        known = Baseline.of(findings)
    findings = known.new(findings)
    audited = Audited(
        str(model),
        findings,
        chosen(settings),
        settings.fail_on,
        evidence=evidence,
        graph=graph,
        mended=None if mended is None else Mended(load(model), mended.repaired),
    )
    _tell(audited, "json" if json else format)
    return FOUND if any(x.severity.rank >= settings.fail_on.rank for x in findings) else 0


def _settings(path: Path | None, **given: Any) -> AuditConfig:
    """What the configuration file says, and what the flags say instead."""
    from onnxqat.auditing import AuditConfig
    from onnxqat.config_file import find_settings, read_settings

    found = (
        find_settings(AuditConfig, "audit", start=Path.cwd())
        if path is None
        else read_settings(AuditConfig, "audit", path)
    )
    return replace(found or AuditConfig(), **{key: value for key, value in given.items() if value})


def _mended(model: Path, settings: AuditConfig, output: Path | None) -> Fixed:
    """The repaired model, which is also written; what was done is told on stderr."""
    from onnxqat.auditing import fix
    from onnxqat.core.errors import ConfigError
    from onnxqat.graph import save
    from onnxqat.report.console import findings_table

    if output is None:
        raise ConfigError("--fix has nowhere to write", fix="give the new file: --output FILE")
    check_writable(output, inputs=[model])
    fixed = fix(model, config=settings)
    save(fixed.graph, output)
    show.log(f"mended {len(fixed.repaired)} findings, see {output}:")
    show.to_stderr(findings_table(fixed.repaired))
    return fixed


def _opened(data: str, graph: Graph) -> Dataset:
    from onnxqat.config_file import read_source
    from onnxqat.data import open_data
    from onnxqat.graph import input_specs

    source = read_source(data)
    return open_data(source.source, input_specs(graph), source)


def _tell(audited: Audited, format: str) -> None:
    """Print the findings on stdout."""
    from onnxqat.report.console import findings_table
    from onnxqat.report.findings import FORMATS

    if format == "text":
        show.result(audited.findings, as_json=False, table=findings_table(audited.findings))
    else:
        show.text(FORMATS[format](audited))


def rule(code: str | None = None, /, *, json: Json = False) -> int:
    """Print the manual page of an audit, placement or training rule, or the list of all rules.

    Args:
        code: An audit rule's id, as QDQ001, or another rule's name, as residual_add.
    """
    from onnxqat.core.errors import ConfigError

    pages = _manual()
    if code is None:
        titles = {name: page.splitlines()[0] for name, page in pages.items()}
        width = max(len(name) for name in titles)
        lines = "\n".join(f"{name:{width}}  {title}" for name, title in titles.items())
        show.result(titles, as_json=json, table=lines)
    elif code in pages:
        show.result(pages[code], as_json=json, table=pages[code])
    else:
        raise ConfigError(f"there is no rule {code}", fix=f"choose one of: {', '.join(pages)}")
    return 0


def _manual() -> dict[str, str]:
    """The pages of all rules: audit rules by id, placement rules in their order, how to write one,
    the module's.
    """
    from inspect import getdoc

    from onnxqat.auditing import RULES
    from onnxqat.core.module_findings import PAGES
    from onnxqat.placement import own_rules
    from onnxqat.placement.rules import TENSORRT_RULES

    audit_pages = {code: rule.manual for code, rule in sorted(RULES.items())}
    placement_pages = {rule.__name__: getdoc(rule) or "" for rule in TENSORRT_RULES}
    return audit_pages | placement_pages | {"own_rules": getdoc(own_rules) or ""} | PAGES


COMMANDS = (audit, rule)
