"""The workflows call the Makefile, hold no secrets, and may do little."""

import re

import pytest
import yaml

from tools import ROOT

WORKFLOWS = {path.stem: path for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
TARGETS = set(re.findall(r"^([a-z][\w-]*):", (ROOT / "Makefile").read_text(), re.M))
# What a fresh machine lacks; everything else is a target of the Makefile.
MACHINE = ("sudo apt-get ", "sudo sysctl ")
ACTIONS = {"checkout", "setup-python", "cache", "upload-pages-artifact", "deploy-pages"}


def read(name):
    """A workflow as a dict. YAML 1.1 takes the key `on` for the value true."""
    workflow = yaml.safe_load(WORKFLOWS[name].read_text())
    return {"on" if key is True else key: part for key, part in workflow.items()}


def steps(name):
    """The steps of all jobs of a workflow."""
    return [step for job in read(name)["jobs"].values() for step in job["steps"]]


def test_the_three_workflows_are_there():
    assert set(WORKFLOWS) == {"test", "book", "weekly"}
    assert {"push", "pull_request"} <= set(read("test")["on"])
    assert read("book")["on"]["push"] == {"branches": ["main"]}
    once_a_week = r"\d+ \d+ \* \* [0-6]"
    assert re.fullmatch(once_a_week, read("weekly")["on"]["schedule"][0]["cron"])


@pytest.mark.parametrize("name", WORKFLOWS)
def test_commands_are_targets_of_the_makefile(name):
    lines = [line for step in steps(name) for line in step.get("run", "").splitlines()]
    made = [line.split()[1:] for line in lines if line.startswith("make ")]
    assert made and all(targets and set(targets) <= TARGETS for targets in made)
    assert all(line.startswith(("make ", *MACHINE)) for line in lines)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_actions_are_official_and_pinned_to_a_major_version(name):
    used = [step["uses"] for step in steps(name) if "uses" in step]
    pinned = rf"actions/({'|'.join(ACTIONS)})@v\d+"
    assert used and all(re.fullmatch(pinned, action) for action in used)


def test_workflows_agree_on_versions():
    used = {step["uses"] for name in WORKFLOWS for step in steps(name) if "uses" in step}
    assert len(used) == len({action.split("@")[0] for action in used})
    pythons = {
        step["with"]["python-version"]
        for name in WORKFLOWS
        for step in steps(name)
        if "setup-python" in str(step)
    }
    assert pythons == {"3.12"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_secrets_and_no_more_rights_than_needed(name):
    own_token = "GH_TOKEN: ${{ github.token }}"  # of the run itself, with the rights below
    text = WORKFLOWS[name].read_text()
    assert text.count(own_token) == (name == "weekly")
    text = text.replace(own_token, "")
    assert not re.search(r"secrets|token\b(?!: write)|password", text, re.I)
    workflow = read(name)
    assert workflow["permissions"] == {"contents": "read"}
    rights = {
        job: part["permissions"] for job, part in workflow["jobs"].items() if "permissions" in part
    }
    more = {
        "book": {"publish": {"pages": "write", "id-token": "write"}},
        "weekly": {"colab": {"contents": "read", "issues": "write"}},
    }
    assert rights == more.get(name, {})
    # It would run a stranger's code with our rights.
    assert "pull_request_target" not in workflow["on"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_job_ends(name):
    assert all(job["timeout-minutes"] <= 90 for job in read(name)["jobs"].values())


def test_what_is_published_is_what_was_built():
    built = read("book")["jobs"]["build"]["steps"]
    assert [step.get("run") for step in built].index("make book") == len(built) - 2
    assert built[-1]["with"]["path"] == "_build/html"
    assert read("book")["jobs"]["publish"]["needs"] == "build"


def test_the_weekly_build_starts_from_nothing():
    assert not any("cache" in str(step) for step in steps("weekly"))
    assert "env" not in read("weekly")["jobs"]["cold"]
