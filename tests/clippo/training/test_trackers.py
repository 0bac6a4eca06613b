import dataclasses
import struct
import sys
from pathlib import Path

import pytest

from clippo.errors import UserError
from clippo.training import trackers
from clippo.training.trackers import Trackers, check_packages, open_trackers

CONFIG = {"steps": 9, "model": {"width": 32}}


def run_of(folder: Path, names, first_step: int, losses: dict[int, float]) -> None:
    """A process that logs losses by their steps."""
    with open_trackers(names, folder, CONFIG, first_step) as opened:
        for step, loss in losses.items():
            opened.log(step, {"step": step, "loss": loss})
            opened.log(step, {"held_out/R@10": 2 * loss})


class Broken:  # no `Tracker`, which would be a choice in all tests
    name = "broken"

    def __init__(self, fails_at: str) -> None:
        self.fails_at, self.calls = fails_at, []

    def log(self, step, metrics) -> None:
        self.calls.append(step)
        if self.fails_at == "log":
            raise OSError("no space left\non the device")

    def close(self) -> None:
        self.calls.append("close")
        raise RuntimeError("cannot flush")


class Recorder:
    name = "recorder"

    def __init__(self) -> None:
        self.calls = []

    def log(self, step, metrics) -> None:
        self.calls.append((step, metrics))

    def close(self) -> None:
        self.calls.append("close")


def test_metrics_of_training_stand_together():
    opened, recorder = Trackers(), Recorder()
    opened.opened = [recorder]
    opened.log(5, {"step": 5, "loss": 1.0, "held_out/R@1": 2.0})
    opened.close()
    assert recorder.calls == [(5, {"train/loss": 1.0, "held_out/R@1": 2.0}), "close"]


def test_a_tracker_that_fails_does_not_end_the_run():
    opened, broken, recorder = Trackers(), Broken("log"), Recorder()
    opened.opened = [broken, recorder]
    with pytest.warns(UserWarning, match="^broken failed at step 5 and gets no more: no space left$"):
        opened.log(5, {})
    opened.log(6, {})
    assert broken.calls == [5, "close"]
    assert recorder.calls == [(5, {}), (6, {})]
    opened.opened = [recorder, Broken("close")]
    with pytest.warns(UserWarning, match="^broken failed at the end: cannot flush$"):
        opened.close()
    assert recorder.calls[-1] == "close"


def test_trackers_are_closed_when_the_run_or_another_tracker_fails(tmp_path, monkeypatch):
    recorder = Recorder()

    def build(folder, config, first_step):
        if recorder in built:
            raise UserError("not this one")
        built.append(recorder)
        return recorder

    built = []
    monkeypatch.setattr(trackers, "choices", lambda kind: {"a": build, "b": build})
    with pytest.raises(KeyboardInterrupt), open_trackers(["a"], tmp_path, CONFIG, 0):
        raise KeyboardInterrupt
    assert recorder.calls == ["close"]
    built.clear()
    with pytest.raises(UserError, match="not this one"), open_trackers(["a", "b"], tmp_path, CONFIG, 0):
        pass
    assert recorder.calls == ["close", "close"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("wandb", "mlflow"), "trackers must be among tensorboard, wandb, got 'mlflow'"),
        (("wandb", "wandb"), "trackers must differ, got 'wandb' twice"),
    ],
)
def test_names_are_checked_by_the_configuration(tiny_config, names, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(tiny_config, trackers=names)


@pytest.mark.parametrize(
    ("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")]
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    message = (
        rf"the tracker {name} needs a package that cannot be imported: pip install 'clippo-kernels\[track\]'"
    )
    with pytest.raises(UserError, match=message):
        check_packages([name])
    with pytest.raises(UserError, match=message), open_trackers([name], tmp_path, CONFIG, 0):
        pass
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_wandb_has_left_is_not_the_package(tmp_path, monkeypatch):
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(UserError, match="pip install .* is not the package"):
        check_packages(["wandb"])
    del sys.modules["wandb"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a folder of event files."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder)).Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard_goes_on_where_the_checkpoint_is(tmp_path):
    pytest.importorskip("tensorboard")
    run_of(tmp_path, ["tensorboard"], 0, {1: 4.0, 2: 3.0, 3: 2.0})
    run_of(tmp_path, ["tensorboard"], 2, {3: 1.0, 4: float("nan")})
    found = scalars(tmp_path / "tensorboard")
    assert found["train/loss"][:3] == [(1, 4.0), (2, 3.0), (3, 1.0)]
    assert [step for step, _ in found["train/loss"]] == [1, 2, 3, 4]
    assert found["held_out/R@10"][:3] == [(1, 8.0), (2, 6.0), (3, 2.0)]


def wandb_records(file: Path):
    """The records of a file that W&B keeps offline: a log of LevelDB after a header of 7 bytes."""
    pb = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    content, position, records, parts = file.read_bytes(), 7, [], b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", content[position : position + 7])
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = pb.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records


def test_wandb_goes_on_in_the_same_run_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = tmp_path / "mine"
    run.mkdir()
    with pytest.warns(UserWarning, match="W&B: .* The run is kept for `wandb sync .*mine/wandb/"):
        run_of(run, ["wandb"], 0, {1: 4.0, 2: 3.0})
    wandb.teardown()  # as at the end of a process
    monkeypatch.setenv("WANDB_MODE", "offline")
    run_of(run, ["wandb"], 1, {2: 3.0, 3: 2.0})
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(files) == 2
    ids, values = set(), {}
    for file in files:
        records = wandb_records(file)
        [started] = [record.run for record in records if record.HasField("run")]
        ids.add(started.run_id)
        assert (started.display_name, started.project) == ("mine", "clippo")
        for record in records:
            items = {item.key or item.nested_key[0]: item.value_json for item in record.history.item}
            if "train/loss" in items:
                values[int(items["_step"])] = (float(items["train/loss"]), float(items["held_out/R@10"]))
    assert ids == {(run / "wandb_id.txt").read_text().strip()}
    assert values == {1: (4.0, 8.0), 2: (3.0, 6.0), 3: (2.0, 4.0)}


def test_what_wandb_refuses_is_one_line(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    wandb.teardown()
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    with pytest.raises(UserError, match="^W&B: Invalid project name 'a/b'.*$"):
        run_of(tmp_path, ["wandb"], 0, {})
