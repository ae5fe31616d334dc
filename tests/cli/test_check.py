"""``perturbify check`` and ``inspect``: reports of files and of named models, and what leaves with which status."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from perturbify.attacks import Pgd, registry
from perturbify.checkpoint import annotate, container, read_header
from perturbify.cli.main import run

WEIGHTS = Path(__file__).parents[2].parent / "shared" / "data" / "weights" / "resnet20.safetensors"
FEW = ("--attacks", "fgsm,pgd,eot,transfer", "--images", "10", "--steps", "1", "--eot-draws", "2", "--draws", "3")


def rewrite(source, target, change):
    """A copy of a checkpoint with its tensors changed, and sealed anew."""
    contents = container.read(Path(source))
    tensors = dict(contents.tensors)
    change(tensors)
    container.write(Path(target), tensors, contents.metadata)
    return target


@pytest.fixture
def check(cli):
    """Runs a check of a few images, which establishes nothing; what it prints, as JSON with --json."""
    return partial(cli, "check", status=4)


def test_a_file_is_checked_on_its_training_dataset(check, trained):
    report = check(trained.model, "--json", *FEW)
    assert (report["dataset"], report["n"], report["preset"]) == ("digits", 10, "quick, changed")
    assert (report["eps"], report["noise"]["sites"]) == (0.1, 19)
    assert (report["verdict"], report["status"]) == ("not established", 4)
    results = {result["id"]: result for result in report["results"]}
    assert list(results) == ["clean", "fgsm", "pgd", "twin-pgd", "eot", "transfer-twin"]
    for result in results.values():
        low, high = result["interval"]
        assert low <= result["accuracy"] <= high
        assert (result["n"], result["draws"]) == (10, 3 if result["noise"] == "on" else 1)
    assert {id for id, result in results.items() if result["noise"] == "off"} == {"twin-pgd"}
    assert results["eot"]["settings"]["draws"] == 2


def test_text_and_json_tell_the_same(check, trained):
    text = check(trained.model, *FEW, "-q")
    report = check(trained.model, *FEW, "-q", "--json")
    said = " ".join(text.split())
    assert "10 test images of digits" in said
    assert "alive at 19 sites behind 19 of 19 convolution calls" in said
    assert "Not established: of " in said
    for result in report["results"]:
        assert any(
            line.startswith(result["attack"]) and f"{100 * result['accuracy']:.1f} [" in line
            for line in text.splitlines()
        )
    for criterion in report["criteria"]:
        assert criterion["name"] in said


def test_registered_attacks_can_be_chosen_by_name(check, trained, monkeypatch):
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    registry.register("mine", lambda epsilon: Pgd(epsilon, epsilon / 2, 3), about="three steps", role="white box")
    report = check(trained.model, "--json", "--attacks", "pgd,mine", *FEW[2:])
    mine = next(result for result in report["results"] if result["id"] == "mine")
    assert (mine["settings"]["steps"], mine["epsilon"]) == (3, report["eps"])


def test_images_of_another_size_are_fitted_when_asked(check, refused, trained, npz):
    npz("large.npz", list(range(10)) * 2, list(range(10)), size=(20, 16))
    assert "made for images of 3×8×8, but those of npz:large are 3×20×16" in refused(
        "check", trained.model, "--data", "large.npz"
    )
    report = check(trained.model, "--data", "large.npz", "--image-size", 8, "--json", *FEW)
    assert (report["dataset"], report["n"]) == ("npz:large", 10)


def test_images_that_are_not_square(cli, check, folder, npz):
    npz("wide.npz", [0, 1] * 5, [0, 1] * 3, size=(8, 12))
    settings = [f"--set={s}" for s in ("train.epochs=1", "data.train_images=10", "train.batch_size=5")]
    cli("finetune", "--recipe", "smoke", "--data", "wide.npz", "-o", "run", "--no-check", *settings)
    assert check("run/model.safetensors", "--data", "wide.npz", "--json", *FEW)["n"] == 6


@pytest.mark.skipif(not WEIGHTS.is_file(), reason=f"needs {WEIGHTS}")
def test_a_named_model_with_weights_is_checked(check, folder):
    report = check("cifar_resnet20", "--weights", WEIGHTS, "--data", "digits", "--json", *FEW)
    assert report["noise"]["sites"] == 0
    assert report["deterministic"]
    assert {result["noise"] for result in report["results"]} == {"off"}


def test_output_and_embed(check, refused, trained, folder):
    shutil.copytree(trained.path, "run")
    report = check("run/model.safetensors", *FEW, "-o", "out", "--embed", "--json")
    assert json.loads(Path("out/report.json").read_text(encoding="utf-8")) == report
    assert {p.name for p in Path("out").iterdir()} == {"report.json", "report.md", "report.html", "records-0.jsonl"}
    assert Path("out/report.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    kept = read_header("run/model.safetensors").check
    assert (kept["n"], kept["dataset"], kept["verdict"]) == (10, "digits", "not established")
    card = Path("run/README.md").read_text(encoding="utf-8")
    assert "on 10 test images of digits" in card and "EOT-PGD-1, 2 draws" in card
    assert "out already holds a check" in refused("check", "run/model.safetensors", *FEW, "-o", "out")
    again = check("run/model.safetensors", *FEW, "-o", "out", "--resume", "--json")
    assert again["results"] == report["results"], "with its very times: nothing was done again"
    other = refused("check", "run/model.safetensors", *FEW, "--seed", 1, "-o", "out", "--resume")
    assert "the records of another check, which differs in plan" in other
    check("run/model.safetensors", *FEW, "--seed", 1, "-o", "out", "--force", "--json")


def test_a_users_card_is_kept(cli, check, trained, folder):
    shutil.copytree(trained.path, "run")
    ours = Path("run/README.md").read_bytes()
    for text in (b"# Mine\n", ours + b"My notes.\n"):
        Path("run/README.md").write_bytes(text)
        with pytest.warns(UserWarning, match=r"run/README\.md is not as perturbify wrote it.*README\.perturbify\.md"):
            check("run", *FEW, "--embed", "-q")
        assert Path("run/README.md").read_bytes() == text
        assert "on 10 test images of digits" in Path("run/README.perturbify.md").read_text(encoding="utf-8")
    assert read_header("run/model.safetensors").check["n"] == 10


def test_a_users_folder_that_resembles_a_run(check, trained, folder):
    Path("mine").mkdir()
    for name in ("model.safetensors", "recipe.toml"):
        shutil.copy(trained.path / name, "mine")
    Path("mine/README.md").write_text("# Mine\n")
    check("mine/model.safetensors", *FEW, "--embed", "-q")
    assert {p.name for p in Path("mine").iterdir()} == {"model.safetensors", "recipe.toml", "README.md"}
    assert Path("mine/README.md").read_text() == "# Mine\n"


@pytest.mark.parametrize("name", ["report.json", "report.md", "report.html", "records-0.jsonl"])
def test_force_removes_only_the_files_of_a_check(name, refused, trained, folder):
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    assert "out already holds a check" in refused("check", trained.model, *FEW, "-o", "out")
    said = refused("check", trained.model, *FEW, "-o", "out", "--force")
    assert f"out/{name} was not written by perturbify, or was changed since, so it is not removed" in said


def test_force_removes_nothing_until_everything_is_ready(refused, trained, folder):
    shutil.copytree(trained.path, "out")
    refused("check", trained.model, *FEW, "-o", "out", "--force", "--data", "nowhere")
    refused("check", trained.model, *FEW, "-o", "out", "--force", "--from", "nowhere.safetensors")


def test_another_process_is_using_the_folder(refused, trained, folder):
    """Another check in the folder, or a run on the file."""
    shutil.copytree(trained.path, "run")
    script = "import sys; from pathlib import Path; from perturbify.errors import CheckError; from perturbify.files "
    script += "import alone\nwith alone(Path('run'), CheckError('')): print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        for how in ("--resume", "--force"):
            assert "already at work in run" in refused("check", trained.model, *FEW, "-o", "run", how)
        assert "already training in run" in refused("check", "run", *FEW, "--embed")
        assert "already training in run" in refused("finetune", "--resume", "run", "--no-check")
        assert "already training in run" in refused("finetune", "--recipe", "smoke", "-o", "run", "--force")
    finally:
        other.kill()
        other.communicate()


def test_killed_and_resumed(trained, folder):
    """The report of a check that was killed twice is that of one that was not, but for the times it took."""
    command = ("check", str(trained.model), "--images", "30", "--batch-size", "5", *FEW[:2], *FEW[4:], "--json")
    arguments = [sys.executable, "-m", "perturbify", *command]
    whole = finished([*arguments, "-q"])
    records = Path("out/records-0.jsonl")
    for enough in (5, 12):
        resume = ["--resume"] if records.exists() else []
        process = subprocess.Popen(
            [*arguments, "-o", "out", *resume],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        while not records.exists() or len(records.read_text(encoding="utf-8").splitlines()) < enough:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.01)
        process.kill()
        process.communicate()
    with records.open("a", encoding="utf-8") as file:
        file.write('{"case": "fgs')  # as if it had been killed while it wrote
    assert timeless(finished([*arguments, "-o", "out", "--resume"])) == timeless(whole)
    assert timeless(json.loads(Path("out/report.json").read_text(encoding="utf-8"))) == timeless(whole)


def test_two_processes_share_the_work(trained, folder):
    command = ("check", str(trained.model), "--images", "20", "--batch-size", "5", *FEW[:2], *FEW[4:], "--json")
    whole = finished([sys.executable, "-m", "perturbify", *command])
    torchrun = (*("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29511"), "-m", "perturbify")
    shared = finished([sys.executable, *torchrun, *command, "-o", "out"])
    assert timeless(shared) == timeless(whole)
    shares = [len(Path(f"out/records-{rank}.jsonl").read_text(encoding="utf-8").splitlines()) - 1 for rank in (0, 1)]
    assert shares == [2 * len(whole["results"])] * 2, "whole batches for each"


def finished(command):
    """What a command of its own printed; a few images establish nothing."""
    # The report names the threads, and torchrun would give each process but one.
    done = subprocess.run(command, capture_output=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 4 or "torch.distributed.run" in command, done.stderr.decode()
    return json.loads(done.stdout)


def timeless(report):
    return report | {"results": [result | {"seconds": 0} for result in report["results"]]}


def test_transfer_and_a_baseline(check, refused, trained, folder):
    shutil.copy(trained.model, "other.safetensors")
    report = check(trained.model, *FEW, "--from", "other.safetensors", "--against", "other.safetensors", "--json")
    assert {"other.safetensors", None} == {result["source"] for result in report["results"]}
    assert {result["network"] for result in report["results"]} == {"itself", "other.safetensors"}
    assert "it is more robust than other.safetensors" in {c["name"] for c in report["criteria"]}
    assert "no file othr.safetensors" in refused("check", trained.model, *FEW, "--from", "othr.safetensors")


@pytest.mark.parametrize(("value", "said"), [(0.0, "must be positive"), (float("nan"), "not finite")])
def test_invalid_theta_values_are_refused(value, said, refused, trained, folder):
    rewrite(trained.model, "dead.safetensors", lambda tensors: tensors["conv1.perturb.theta"].fill_(value))
    assert said in refused("check", "dead.safetensors", *FEW)


def test_dead_noise_is_exit_status_3(trained, folder, capsys):
    said = "below θ_min"
    dead = rewrite(trained.model, "dead.safetensors", lambda tensors: tensors["conv1.perturb.theta"].fill_(0.001))
    assert run(["check", dead, *FEW, "--json"]) == 3
    out, err = capsys.readouterr()
    assert "Error" not in err
    report = json.loads(out)
    assert (report["verdict"], report["status"]) == ("failed", 3)
    assert any(said in failure for failure in report["noise"]["failures"])
    assert run(["check", dead, *FEW, "-q"]) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert "Failed: " in said and f"noise: FAILED, {report['noise']['failures'][0]}" in said


def test_inspect(cli, trained):
    text = cli("inspect", trained.model)
    assert "perturbify:cifar_resnet20" in text
    assert "learn2perturb" in text
    worst = read_header(trained.model).check["worst_case"]["value"]
    assert re.search(
        rf"^last check +not established; worst case {100 * worst:.1f} \[.* on 50 images of digits$", text, re.M
    )
    said = cli("inspect", trained.model, "--json")
    assert len(said["sites"]) == 19
    for site in said["sites"]:
        assert 0.0099 < site["min"] <= site["mean"] <= site["max"]
    assert said["trained"]["epochs"] == 2


@pytest.mark.parametrize(("passed", "said"), [(True, "no criterion failed"), (False, "a criterion failed")])
def test_a_check_of_an_older_version_is_shown(passed, said, cli, trained, folder):
    shutil.copy(trained.model, "older.safetensors")
    kept = {"dataset": "digits", "n": 50, "epsilon": 0.1, "rows": [], "criteria": {}, "passed": passed}
    annotate("older.safetensors", check=kept)
    assert f"{said}, by an older version that gave no verdict; 50 images" in cli("inspect", "older.safetensors")


# What is refused


def test_unreadable_or_missing_files(refused, trained, folder):
    Path("noise.safetensors").write_bytes(b"\xff" * 200)
    save_file({"a": torch.ones(1)}, "bare.safetensors")
    Path("half.safetensors").write_bytes(trained.model.read_bytes()[:-1000])
    for name in ("check", "inspect"):
        assert "no file nois.safetensors. Hint: Did you mean 'noise.safetensors'" in refused(name, "nois.safetensors")
        assert "not a complete safetensors file" in refused(name, "noise.safetensors")
        assert "not a complete safetensors file" in refused(name, "half.safetensors")
        assert "not a perturbify checkpoint" in refused(name, "bare.safetensors")
        assert "factories.py" in refused(name, "factories.py")


def test_a_file_from_a_newer_version(refused, trained, folder):
    with safe_open(trained.model, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    metadata["perturbify"] = json.dumps(json.loads(metadata["perturbify"]) | {"format": 99})
    save_file(tensors, "newer.safetensors", metadata=metadata)
    assert "checkpoint format 99" in refused("check", "newer.safetensors")


def test_a_file_with_a_missing_tensor(refused, trained, folder):
    rewrite(trained.model, "lacks.safetensors", lambda tensors: tensors.pop("conv1.perturb.theta"))
    assert "conv1.perturb.theta" in refused("inspect", "lacks.safetensors")
    assert "conv1.perturb.theta" in refused("check", "lacks.safetensors")


def test_data_that_do_not_fit(refused, trained, npz, folder):
    npz("two.npz", [0, 1] * 3, [0, 1])
    assert "has 10 classes, but npz:two has 2" in refused("check", trained.model, "--data", "two.npz")
    assert "Did you mean 'digits'" in refused("check", trained.model, "--data", "digit")
    assert "'nowhere'" in refused("check", trained.model, "--data", "nowhere")


def test_a_run_knows_where_its_images_are(cli, refused, folder, npz):
    data = npz("mine.npz", [*range(10)] * 5, [*range(10)])
    small = ("--set", "model=factories:small", "--set", "train.epochs=1", "--set", "train.warmup_epochs=0")
    cli("finetune", "--recipe", "smoke", *small, "--data", data, "--no-check", "-o", "run", "-q")
    trust = ("--trust-factory", "--attacks", "fgsm", "-q")
    cli("check", "run", *trust, status=4)
    shutil.copy("run/model.safetensors", "alone.safetensors")
    assert "was trained on npz:mine, but does not say where" in refused("check", "alone.safetensors", *trust)


def test_a_converted_file_names_no_data(cli, refused, folder):
    cli("convert", "factories:small", "--input-size", "3x8x8", "-o", "out.safetensors")
    assert "--data NAME" in refused("check", "out.safetensors", "--trust-factory")
    assert "--trust-factory" in refused("check", "out.safetensors", "--data", "digits")


def test_contradictory_options(refused, trained):
    assert "leave out these options" in refused("check", trained.model, "--pretrained", status=2)
    assert "none is given" in refused("check", "cifar_resnet20", "--embed", "--data", "digits", status=2)
    assert "Name the images" in refused("check", "cifar_resnet20", status=2)
    assert "-o FOLDER" in refused("check", trained.model, "--resume", status=2)
    said = refused("check", trained.model, "--attacks", "fgsm,pdg", status=2)
    assert "There is no attack 'pdg'. Did you mean 'pgd' or 'apgd'? There are fgsm, " in said
    for epsilon in ("0", "2", "8/0", "1e400", "x"):
        assert "--epsilon" in refused("check", trained.model, "--epsilon", epsilon, status=2)


def test_an_unknown_device(refused, trained):
    assert "no device 'cuda:99' here" in refused("check", trained.model, "--device", "cuda:99")


def test_unknown_models_and_wrong_weights(refused, trained):
    assert "no model 'resnet81'" in refused("check", "resnet81", "--data", "digits")
    assert "whole perturbify checkpoint" in refused(
        "check", "cifar_resnet20", "--data", "digits", "--weights", trained.model
    )
