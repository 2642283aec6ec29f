"""What commands show, how they end, and that they say what was wrong."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from orchestrator.cli import app, main
from orchestrator.cli.following import Ending, conclude, exit_code, sample_lines
from orchestrator.cli.output import BAD_INPUT, INTERRUPTED, NOT_COMPLETED, OK, UNREACHABLE, guarded
from orchestrator.cli.previewing import first_items
from orchestrator.cli.progress import Lines, Speedometer, display, duration, phase_of
from orchestrator.cli.text import ago, describe, error_text, moment, wall_time
from orchestrator.client import ApiError, UnreachableError
from orchestrator.lifecycle import JobStatus
from orchestrator.spec import JobSpec, parse_job
from orchestrator.stackfile import StackRunningError
from orchestrator.totals import ItemCounts
from orchestrator.views import JobError, Prediction
from tests.support.clocks import ManualClock
from tests.support.views import job_view

JOB = 'kind: echo\nprompt: "say {{ index }}"\nsource: {count: 3}\n'


@pytest.fixture
def nightmill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setenv("NIGHTMILL_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(JOB)
    runner = CliRunner()

    def run(*arguments: str) -> Any:
        return runner.invoke(app, list(arguments))

    return run


def test_every_command_of_the_contract_is_there(nightmill: Callable[..., Any]) -> None:
    names = {
        *("up", "down", "status", "run", "submit", "plan", "preview", "jobs", "show", "watch", "results", "errors"),
        *("cancel", "pause", "resume", "retry", "models", "doctor"),
    }
    shown = nightmill("--help").stdout
    assert all(f" {name} " in shown for name in names)
    reading = ("status", "plan", "preview", "jobs", "show", "watch", "results", "errors", "models", "doctor", "run")
    assert all("--json" in nightmill(name, "--help").stdout for name in reading)


def test_wrong_usage_is_told_apart(nightmill: Callable[..., Any]) -> None:
    assert nightmill("run").exit_code == BAD_INPUT
    assert nightmill("nonsense").exit_code == BAD_INPUT
    assert nightmill("up", "--port", "70000").exit_code == BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "none.yaml"), "none.yaml: there is no such job file"),
        (("submit", "job.yaml", "--set", "promt=x"), "did you mean 'prompt'?"),
        (("plan", "job.yaml", "--set", "prompt={{ nme }}"), "nme"),
        (("preview", "job.yaml", "--set", "source={file: none.csv}"), "none.csv: there is no such file"),
        (("run", "job.yaml", "--set", "source={file: .}"), "is a directory"),
        (("run", "job.yaml", "--set", "sampling.max_tokens=0"), "max_tokens"),
    ],
)
def test_bad_input_ends_with_2_before_anything_is_started(
    nightmill: Callable[..., Any], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = nightmill(*arguments)
    assert done.exit_code == BAD_INPUT, done.output
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", ["submit", "jobs", "show", "watch", "cancel", "status"])
def test_no_service_ends_with_3_and_says_how_to_start_one(nightmill: Callable[..., Any], command: str) -> None:
    arguments = {"submit": ["job.yaml"], "jobs": [], "status": []}.get(command, ["01KB"])
    done = nightmill(command, *arguments)
    assert done.exit_code == UNREACHABLE
    assert "nightmill up" in done.stderr


def test_a_bad_setting_names_its_variable(nightmill: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTMILL_LEASE_SECONDS", "soon")
    done = nightmill("jobs")
    assert (done.exit_code, "NIGHTMILL_LEASE_SECONDS='soon'" in done.stderr) == (BAD_INPUT, True)


def test_status_without_a_stack_is_json_too(nightmill: Callable[..., Any]) -> None:
    shown = json.loads(nightmill("status", "--json").stdout)
    assert (shown["running"], shown["url"], shown["processes"]) == (False, None, [])


def test_plan_shows_what_would_run(nightmill: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("sku,name\na,Tent\nb,Lamp\n")
    source = "source={file: rows.csv, custom_id: sku, grid: {tone: [warm, bold]}}"
    arguments = ("plan", "job.yaml", "--set", source, "--set", "prompt='{{ tone }} {{ name }}'")
    shown = nightmill(*arguments)
    assert shown.exit_code == OK, shown.output
    assert "4 (2 rows by 2 combinations of the grid)" in shown.stdout
    assert "warm Tent" in shown.stdout
    plan = json.loads(nightmill(*arguments, "--json").stdout)
    assert (plan["items"], plan["rows"], plan["shards"], plan["custom_id"]) == (4, 2, 1, "sku")
    assert plan["samples"][1] == [{"role": "user", "content": "bold Lamp"}]


def test_models_are_listed(nightmill: Callable[..., Any]) -> None:
    shown = json.loads(nightmill("models", "--json").stdout)
    assert {"smollm2-135m", "echo"} <= {model["name"] for model in shown}
    assert "smollm2-135m" in nightmill("models").stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UnreachableError("away"), UNREACHABLE),
        (ApiError(404, "no job"), BAD_INPUT),
        (ApiError(507, "full"), NOT_COMPLETED),
        (StackRunningError(Path("/d"), 7), BAD_INPUT),
        (OSError(28, "No space left on device", "out/results.jsonl"), NOT_COMPLETED),
        (RuntimeError("odd"), NOT_COMPLETED),
        (KeyboardInterrupt(), INTERRUPTED),
    ],
)
def test_errors_become_sentences_and_exit_codes(
    error: BaseException, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    @guarded
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == code
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback(
    nightmill: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTMILL_DEBUG", "")
    monkeypatch.setattr("sys.argv", ["nightmill", "plan", "none.yaml", "--debug"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == BAD_INPUT
    assert "Traceback" in capsys.readouterr().err
    assert os.environ["NIGHTMILL_DEBUG"] == "1"


def test_speed_and_time_left_are_those_of_the_last_seconds(clock: ManualClock) -> None:
    speed = Speedometer(clock)
    assert speed.look(job_view()).seconds_left is None
    clock.advance(10)
    at_first = speed.look(job_view(ok=10))
    assert (at_first.tokens_per_second, at_first.seconds_left) == (5.0, 90.0)
    for done in (20, 40, 60):
        clock.advance(10)
        later = speed.look(job_view(ok=done))
    assert (later.tokens_per_second, later.seconds_left) == (10.0, 20.0)
    fallen_back = speed.look(job_view(ok=30))
    assert (fallen_back.done, fallen_back.seconds_left) == (30, None)


def test_the_time_before_the_first_item_ends_counts(clock: ManualClock) -> None:
    speed = Speedometer(clock)
    speed.look(job_view(phase="loading"))
    clock.advance(10)
    speed.look(job_view(phase="generating"))
    clock.advance(9)
    speed.look(job_view(phase="generating"))
    clock.advance(1)
    assert speed.look(job_view(ok=20, phase="generating")).tokens_per_second == 10.0


@pytest.mark.parametrize(
    ("status", "phase", "words"),
    [
        (JobStatus.VALIDATING, None, "planning"),
        (JobStatus.IN_PROGRESS, None, "queued"),
        (JobStatus.IN_PROGRESS, "loading", "loading model"),
        (JobStatus.IN_PROGRESS, "writing", "generating"),
        (JobStatus.FINALIZING, None, "finalizing"),
        (JobStatus.PAUSED, "generating", "paused"),
    ],
)
def test_phases_have_words(status: JobStatus, phase: str | None, words: str) -> None:
    assert phase_of(job_view(status, phase=phase)) == words


def test_without_a_terminal_there_is_a_line_a_phase_and_a_line_a_tenth(clock: ManualClock) -> None:
    written: list[str] = []
    speed, lines = Speedometer(clock), Lines(written.append)
    lines.show(speed.look(job_view(JobStatus.VALIDATING)))
    for done in range(0, 101, 5):
        clock.advance(1)
        lines.show(speed.look(job_view(ok=done, phase="generating")))
    assert written[:3] == ["planning", "generating", "10 % · 10/100 items · 25 tokens/s · 18 s left"]
    assert len(written) == 12


def test_a_terminal_gets_a_bar() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100)
    with display(console) as shown:
        shown.phase("starting")
        shown.show(Speedometer(ManualClock()).look(job_view(ok=25, failed=1, phase="generating")))
    drawn = screen.getvalue()
    assert all(text in drawn for text in ("generating", "26/100 items", "1 failed", "━"))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min")]
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_job_is_described_with_its_counts_tokens_and_times() -> None:
    lines = dict(describe(job_view(JobStatus.COMPLETED, ok=99, failed=1)))
    assert lines["items"] == "100 of 100 · 99 ok · 1 failed"
    assert lines["tokens"] == "990 in · 495 out · 12 tokens/s"
    assert lines["time"] == "1 min 2 s: queued 2.0 s · model load 20 s · generation 40 s"
    assert wall_time(job_view(JobStatus.VALIDATING)) == "queued 2.0 s · model load 20 s"
    assert ago(100.0, now=165.0) == "1 min 5 s ago"


def test_a_failed_job_says_where_by_the_name_that_the_person_knows() -> None:
    error = JobError("invalid_source", "has 3 cells", file="products.csv", line=7)
    job = job_view(JobStatus.FAILED, planned_at=None, error=error, items=0)
    assert error_text(job) == "products.csv, line 7: has 3 cells"
    assert error_text(job, "data/products.csv") == "data/products.csv, line 7: has 3 cells"
    assert exit_code(job, fail_on_errors=False) == BAD_INPUT


def test_exit_codes_follow_the_job() -> None:
    completed = job_view(JobStatus.COMPLETED, ok=99, failed=1)
    assert exit_code(completed, fail_on_errors=False) == OK
    assert exit_code(completed, fail_on_errors=True) == NOT_COMPLETED
    for status in (JobStatus.FAILED, JobStatus.EXPIRED, JobStatus.CANCELLED):
        assert exit_code(job_view(status), fail_on_errors=False) == NOT_COMPLETED


def test_a_run_ends_with_figures_and_the_first_outputs(capsys: pytest.CaptureFixture[str]) -> None:
    job = job_view(JobStatus.COMPLETED, ok=100, counts=ItemCounts(ok=100))
    record = {"index": 0, "custom_id": "a", "status": "ok", "output": "A tent.", "input": {"tone": "warm"}}
    conclude(Ending(job, "out/results.jsonl", samples=(record,)), as_json=False, fail_on_errors=False)
    shown = capsys.readouterr().out
    assert "results  out/results.jsonl" in shown
    assert "[0] a (tone: warm)\n    A tent." in shown


def test_a_job_in_progress_shows_when_it_is_expected_to_be_done() -> None:
    now = 1_700_000_100.0
    job = job_view(predicted_finish_at=now + 725.0)
    assert dict(describe(job, now))["expected"] == f"{moment(now + 725.0)} (in 12 min 5 s)"
    assert dict(describe(job, now + 800.0))["expected"].endswith("(any moment)")
    late = job_view(predicted_finish_at=now + 725.0, deadline_at=now + 665.0)
    assert dict(describe(late, now))["expected"].endswith("(in 12 min 5 s) · 1 min 0 s after its deadline")
    assert "expected" not in dict(describe(job_view(), now))


def test_a_job_that_ended_shows_how_good_its_first_prediction_was() -> None:
    made, ended = 1_700_000_012.0, 1_700_000_062.0

    def shown(finish: float, **fields: Any) -> str | None:
        job = job_view(fields.pop("status", JobStatus.COMPLETED), first_prediction=Prediction(made, finish), **fields)
        return dict(describe(job)).get("predicted")

    assert shown(ended - 10) == f"{moment(ended - 10)} · it took 10 s longer, 20% of 50 s"
    assert shown(ended + 5) == f"{moment(ended + 5)} · it took 5.0 s less, 10% of 50 s"
    assert shown(ended, manifest_version=2) is None
    assert shown(ended, status=JobStatus.CANCELLED) is None
    assert shown(ended, status=JobStatus.IN_PROGRESS) is None


def test_samples_show_failures_objects_and_several_outputs() -> None:
    failed = {"index": 1, "status": "failed", "error": {"code": "too_long", "message": "9,000 tokens"}}
    assert sample_lines(failed, 80)[1] == "    failed: too_long: 9,000 tokens"
    assert sample_lines({"index": 2, "status": "ok", "output": {"a": 1}}, 80)[1:] == ["    {", '      "a": 1', "    }"]
    several = {"index": 3, "status": "ok", "outputs": [{"text": "one"}, {"text": "two"}]}
    assert sample_lines(several, 80)[1:] == ["    one", "    two"]
    assert max(map(len, sample_lines({"index": 4, "status": "ok", "output": "word " * 90}, 60))) <= 60


def _spec(tmp_path: Path, **fields: Any) -> JobSpec:
    return parse_job({"kind": "echo", "seed": 3, "deadline": "1h", **fields})


def test_a_preview_is_the_first_items_of_the_job_itself(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("custom_id,name\na,Tent\nb,Lamp\nc,Boots\n")
    source = {"file": str(rows), "grid": {"tone": ["warm", "bold"]}}
    small, prompts = first_items(_spec(tmp_path, prompt="{{ tone }} {{ name }}", source=source), 3)
    assert [asked[0]["content"] for asked in prompts] == ["warm Tent", "bold Tent", "warm Lamp"]
    assert small.source.items is not None
    assert [item["name"] for item in small.source.items] == ["Tent", "Tent", "Lamp"]
    assert (small.seed, small.deadline, small.kept) == (3, None, ("tone",))
    assert small.metadata == {"nightmill.preview": "true"}


def test_a_preview_of_numbers_and_of_a_large_grid(tmp_path: Path) -> None:
    _, prompts = first_items(_spec(tmp_path, prompt="{{ index }}", source={"count": 1_000_000}), 2)
    assert [asked[0]["content"] for asked in prompts] == ["0", "1"]
    grid = {"a": list(range(100)), "b": list(range(100))}
    _, prompts = first_items(_spec(tmp_path, prompt="{{ a }}{{ b }}", source={"grid": grid}), 2)
    assert [asked[0]["content"] for asked in prompts] == ["00", "01"]
