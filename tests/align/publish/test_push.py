"""The steps of a push, by the real `huggingface_hub` to a Hub on this machine that fails in every way."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import HfApi, constants

from align.errors import PublishError
from align.publish import push
from align.publish.push import Target, push_folder
from align.publish.staging import is_of_a_checkpoint
from tests.fake_hub import TOKEN
from tests.writable_hub import Fault, Repo, WritableHub

FILES = {"README.md": b"---\nlicense: mit\n---\n# model\n", "config.json": b"{}", "model.safetensors": b"weights"}
TARGET = Target("me/model", "round-2")


@pytest.fixture(autouse=True)
def _no_pauses(waits: list[float]) -> None:
    """Every test here may try again."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return laid_out(tmp_path / "staged", FILES)


def laid_out(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def pushed(hub: WritableHub, folder: Path, target: Target = TARGET) -> push.Pushed:
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    return push_folder(api, folder, target, "dpo, made by align", is_ours=is_of_a_checkpoint)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def shown_whole(repo: Repo, ref: str, *wholes: dict[str, bytes]) -> bool:
    """Whether a ref has at all times shown one of these sets of files, and no mixture."""
    shown = [{path: blob.content for path, blob in tree.items()} for tree in repo.seen.get(ref, [])]
    return all(
        {**tree, ".gitattributes": b""} in [{**whole, ".gitattributes": b""} for whole in wholes] for tree in shown
    )


def test_the_files_are_on_a_branch_and_a_tag_and_main_is_as_it_was(hub: WritableHub, folder: Path) -> None:
    done = pushed(hub, folder)
    repo = hub.model()
    assert repo.private
    assert repo.files("round-2") == repo.files(done.tag) == repo.files(done.commit) == FILES
    assert repo.files("main") == {}
    assert done.tag.startswith("round-2-")
    assert len(done.tag) == len("round-2-") + 8
    assert repo.commits[done.commit]["model.safetensors"].lfs


def test_main_gets_the_files_in_one_commit_and_no_weights_are_sent_again(hub: WritableHub, folder: Path) -> None:
    pushed(hub, folder, TARGET._replace(update_main=True))
    repo = hub.model()
    assert repo.files("main") == FILES
    assert len(repo.seen["main"]) == 1
    assert hub.requests.count("put") == 1


def test_a_second_push_of_the_same_sends_nothing(hub: WritableHub, folder: Path) -> None:
    first = pushed(hub, folder, TARGET._replace(update_main=True))
    hub.requests.clear()
    assert pushed(hub, folder, TARGET._replace(update_main=True)) == first
    assert set(hub.requests) == {"create", "refs", "tree"}


def test_the_next_round_replaces_our_files_and_leaves_those_of_others(hub: WritableHub, tmp_path: Path) -> None:
    sharded = {**FILES, "model-2-of-2.safetensors": b"the second shard"}
    pushed(hub, laid_out(tmp_path / "1", sharded), Target("me/model", "round-1", update_main=True))
    repo = hub.model()
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.upload_file(repo_id="me/model", path_or_fileobj=b"terms", path_in_repo="LICENSE", revision="main")
    later = {**FILES, "model.safetensors": b"weights of round 2"}
    pushed(hub, laid_out(tmp_path / "2", later), TARGET._replace(update_main=True))
    assert repo.files("main") == repo.files("round-2") == {**later, "LICENSE": b"terms"}
    assert repo.files("round-1") == sharded


def test_a_tag_with_other_files_is_not_moved(hub: WritableHub, tmp_path: Path) -> None:
    first = pushed(hub, laid_out(tmp_path / "1", FILES), TARGET._replace(tag="v1"))
    other = laid_out(tmp_path / "2", {**FILES, "config.json": b"[]"})
    with pytest.raises(
        PublishError, match=r"has the tag v1 already, for other content \(config.json\). Choose another"
    ):
        pushed(hub, other, TARGET._replace(tag="v1"))
    assert hub.model().tags == {"v1": first.commit}


def test_a_tag_that_another_push_makes_in_between_is_not_taken_for_ours(
    hub: WritableHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    real = api.create_tag

    def create_tag(repo_id: str, **settings: Any) -> None:
        if "v1" not in hub.model().tags:
            real(repo_id, repo_type="model", tag="v1", revision="main")
        real(repo_id, **settings)

    monkeypatch.setattr(api, "create_tag", create_tag)
    with pytest.raises(PublishError, match=r"the tag v1 is at another commit"):
        push_folder(api, folder, TARGET._replace(tag="v1", update_main=True), "m", is_ours=is_of_a_checkpoint)
    assert hub.model().files("main") == {}, "main has not moved"


def test_a_remade_round_gets_a_tag_of_its_own(hub: WritableHub, tmp_path: Path) -> None:
    tags = {pushed(hub, laid_out(tmp_path / f"{n}", {**FILES, "config.json": b"%d" % n})).tag for n in range(3)}
    assert hub.model().tags.keys() == tags
    assert len(tags) == 3


# Faults

ROUTES = ("create", "refs", "branch", "tree", "preupload", "batch", "put", "commit", "tag", "paths", "file")
TRANSIENT = ("429", "429 after", "500", "503", "reset", "lost")
FAULTS = [(route, kind) for route in ROUTES for kind in TRANSIENT]
FAULTS += [(route, "timeout") for route in ROUTES]
FAULTS += [(route, "garbage") for route in ("refs", "tree", "preupload", "batch", "commit")]
FAULTS += [("refs", "stale"), ("tree", "stale"), ("commit", "wrong commit"), ("commit", "changed")]


@pytest.mark.slow
@pytest.mark.parametrize("route, kind", FAULTS)
def test_after_a_fault_the_push_is_complete_and_was_never_seen_in_part(
    hub: WritableHub, folder: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch, route: str, kind: str
) -> None:
    monkeypatch.setattr(push, "ANSWER_SECONDS", 0.25)
    hub.faults.append(Fault(route, kind, times=2, skip=1 if kind == "stale" else 0))
    done = pushed(hub, folder, TARGET._replace(update_main=True))
    repo = hub.model()
    assert hub.faults[0].times < 2, "the fault has happened"
    assert repo.files(done.tag) == repo.files("round-2") == repo.files("main") == FILES
    assert repo.tags == {done.tag: done.commit}
    if kind != "changed":
        assert shown_whole(repo, done.tag, FILES)
        assert shown_whole(repo, "main", FILES)
    if kind == "timeout":
        assert huggingface_hub.get_session().timeout.read == 0.25, "the client does not wait for the end of a silence"
    if kind == "429 after":
        assert max(waits) >= 7, "the answer says how long"


def test_a_commit_to_main_that_stores_something_else_is_noticed(hub: WritableHub, folder: Path) -> None:
    hub.faults.append(Fault("commit", "changed", skip=1))  # the first commit is that of the branch
    pushed(hub, folder, TARGET._replace(update_main=True))
    repo = hub.model()
    assert len(repo.seen["main"]) == 2
    assert repo.files("main") == FILES


class Killed(BaseException):
    """The end of the process, in the middle of a request."""


@pytest.mark.slow
def test_a_push_that_is_killed_at_any_request_is_completed_by_the_same_call(
    hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Main holds round 1. Killed after the n-th request, for every n, the push of round 2 never shows a mixture."""
    first = {**FILES, "model-2-of-2.safetensors": b"the second shard"}
    second = {**FILES, "model.safetensors": b"weights of round 2"}
    folders = [laid_out(tmp_path / f"{n}", files) for n, files in enumerate((first, second))]
    client = type(huggingface_hub.get_session())
    real, left = client.send, [10**9]

    def send(self: Any, request: Any, **settings: Any) -> Any:
        answer = real(self, request, **settings)
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return answer

    monkeypatch.setattr(client, "send", send)
    killed_at = 0
    while True:
        hub.repos.clear()
        hub.objects.clear()
        pushed(hub, folders[0], Target("me/model", "round-1", update_main=True))
        hub.requests.clear()
        killed_at, left[0] = killed_at + 1, killed_at + 1
        try:
            pushed(hub, folders[1], TARGET._replace(update_main=True))
            break
        except Killed:
            left[0] = 10**9
        done = pushed(hub, folders[1], TARGET._replace(update_main=True))
        repo = hub.model()
        assert repo.files("main") == repo.files(done.tag) == second
        assert shown_whole(repo, "main", first, second)
        assert shown_whole(repo, done.tag, second)
        assert hub.requests.count("put") == 1, "weights that had arrived are not sent again"
    assert killed_at > 15, "a push has as many requests"


def test_large_folders_go_in_parts_and_the_tag_has_all_of_them(
    hub: WritableHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With Xet storage huggingface_hub makes several commits of a large folder. Between two of them the push ends."""
    pipeline = pytest.importorskip("huggingface_hub._upload_pipeline")
    pytest.importorskip("hf_xet")
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    monkeypatch.setattr(pipeline, "COMMIT_SIZE_SCALE", [2] * 10)
    many = {"README.md": b"---\nlicense: mit\n---\n"} | {f"tokenizer-{n}.json": b"%d" % n for n in range(6)}
    folder = laid_out(tmp_path / "many", many)
    hub.faults.append(Fault("commit", "403", skip=2))
    with pytest.raises(PublishError, match="may write to me/model"):
        pushed(hub, folder, TARGET._replace(update_main=True))
    repo = hub.model()
    assert 0 < len(repo.files("round-2")) < len(many)
    assert (repo.files("main"), repo.tags) == ({}, {})
    done = pushed(hub, folder, TARGET._replace(update_main=True))
    assert repo.files(done.tag) == repo.files("main") == many
    assert len(repo.seen["round-2"]) > 3


@pytest.mark.parametrize(
    "route, kind, said",
    [
        ("create", "401", "Check HF_TOKEN and hub.repo: the token is not valid."),
        ("commit", "403", "the token must be one that may write to me/model."),
        ("preupload", "404", "Try again once the Hub is in reach"),
        ("commit", "413", "Check HF_TOKEN and hub.repo."),
        ("tree", "stale", r"README.md and 2 more on the branch round-2 differs from the local file\). Try again"),
        ("any", "500", "Try again once the Hub is in reach; what is uploaded is not sent again."),
        ("any", "reset", "Try again once the Hub is in reach"),
    ],
)
def test_what_does_not_end_is_an_error_that_says_what_to_do(
    hub: WritableHub, folder: Path, waits: list[float], route: str, kind: str, said: str
) -> None:
    hub.faults.append(Fault(route, kind, times=10**6))
    with pytest.raises(PublishError, match=said) as caught:
        pushed(hub, folder)
    assert TOKEN not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert not hub.repos or not hub.model().tags
    if kind in ("401", "403", "413"):
        assert waits == [], "another try changes nothing"


def test_a_token_in_the_text_of_an_error_is_not_shown(
    hub: WritableHub, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("align"), "propagate", True)
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)

    def create_repo(**settings: Any) -> None:
        raise OSError(f"{'x' * 180} a request with Bearer {TOKEN} failed")  # across the place where texts are cut

    monkeypatch.setattr(api, "create_repo", create_repo)
    with pytest.raises(PublishError) as caught:
        push_folder(api, folder, TARGET, "m", is_ours=is_of_a_checkpoint)
    for said in (str(caught.value), caplog.text):
        assert TOKEN[:8] not in said


def test_offline_is_said_at_once(hub: WritableHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PublishError, match="Unset HF_HUB_OFFLINE"):
        pushed(hub, folder)
    assert hub.requests == []


def test_a_client_with_a_limit_of_its_own_stays(hub: WritableHub, folder: Path) -> None:
    client = type(huggingface_hub.get_session())
    huggingface_hub.set_client_factory(lambda: client(timeout=77))
    pushed(hub, folder)
    assert huggingface_hub.get_session().timeout.read == 77


def test_main_that_moves_in_between_is_read_again(
    hub: WritableHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another person commits to main between our look at it and our commit: theirs is kept, and ours comes after it."""
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    real, others = api.create_commit, [b"terms"]

    def create_commit(**settings: Any) -> Any:
        if others:
            other = HfApi(endpoint=hub.endpoint, token=TOKEN)
            other.upload_file(repo_id="me/model", path_or_fileobj=others.pop(), path_in_repo="LICENSE")
        return real(**settings)

    pushed(hub, folder)
    monkeypatch.setattr(api, "create_commit", create_commit)
    push_folder(api, folder, TARGET._replace(update_main=True), "m", is_ours=is_of_a_checkpoint)
    assert hub.model().files("main") == {**FILES, "LICENSE": b"terms"}
    assert hub.requests.count("commit") == 4, "the branch, theirs, ours that was refused, ours"
