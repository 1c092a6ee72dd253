"""Uploading a saved model to the Hub, once what can go wrong has been looked at: client, network, token."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from .._installing import install
from .._quoting import printable, quoted
from .files.hub import REPO_ID
from .files.shards import DEFAULT_SIZE, size_in_bytes
from .gathering import is_written_here, together_if_spread
from .model_card import README, CardData

_WEIGHTS = ["model*.safetensors", "model*.safetensors.index.json"]
"""What an upload replaces: shards of an earlier one would be another model's."""

_LONGEST = 300
_HOW = "pass token=, set the environment variable HF_TOKEN, or run `hf auth login`"


class PushesToHub:
    """What has `save_pretrained`, and so can be uploaded."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = DEFAULT_SIZE,
        card_data: CardData | None = None,
    ) -> str:
        """Save into a temporary folder, and upload that to the Hub (extra `hub`).

        The repository is made if it does not exist. Weights that are in it and are not uploaded are deleted by the same
        commit, other files stay, and so does a model card that somebody wrote or edited there. Of a model that is
        spread over several processes all must call this, and the first uploads.

        Args:
            repo_id: name of the repository, with its owner's in front (`"me/my-model"`) or in your own space.
            commit_message: what the commit says.
            private: whether a repository that is made is private; default what its owner has set.
            token: access token that may write; default the one stored by the Hub client or in `HF_TOKEN`.
            revision: branch to commit to, made if it does not exist; default the main one.
            create_pr: whether to open a pull request instead of committing to the branch.
            max_shard_size: as of `save_pretrained`.
            card_data: as of `save_pretrained`.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ImportError: the `hub` extra is not installed.
            ValueError: `repo_id` or `max_shard_size` is none.
            PermissionError: there is no token, or one that may not do this.
            ConnectionError: the Hub cannot be reached, or the client is offline; or an upload was broken off.
        """
        size_in_bytes(max_shard_size)
        model = getattr(self, "model", self)  # a TextToText has it
        uploads, api, name = is_written_here(model), None, ""
        with together_if_spread(model, "looking at where to upload"):
            if uploads:
                api, name = _prepared(repo_id, token=token, private=private, revision=revision, create_pr=create_pr)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            with together_if_spread(model, "fetching the model card"):
                if uploads:
                    folder.mkdir()
                    _fetch_card(api, name, folder, revision)
            self.save_pretrained(folder, max_shard_size=max_shard_size, card_data=card_data)  # pyright: ignore
            with (
                together_if_spread(model, "uploading a model") as told,
                _plain_errors(f"{name} was not uploaded whole"),
            ):
                if uploads:
                    commit = api.upload_folder(  # pyright: ignore[reportOptionalMemberAccess]
                        repo_id=name,
                        folder_path=folder,
                        commit_message=commit_message,
                        revision=revision,
                        create_pr=create_pr,
                        delete_patterns=_WEIGHTS,
                    )
                    told.mine = commit.pr_url or commit.commit_url
        return told.all[0]


def _prepared(
    repo_id: str, *, token: str | bool | None, private: bool | None, revision: str | None, create_pr: bool
) -> tuple[Any, str]:
    """The client, and the name of the repository, which is there: nothing has been saved yet."""
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError(f"push_to_hub needs huggingface-hub, which is not installed: {install('hub')}") from None
    if not isinstance(repo_id, str) or not REPO_ID.fullmatch(repo_id):
        raise ValueError(f"repo_id is {quoted(repo_id)}; expected a name such as 'me/my-model'.")
    api = huggingface_hub.HfApi(token=token)
    with _plain_errors(f"nothing was saved or uploaded to {repo_id}"):
        api.whoami()
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not create_pr and not revision.startswith("refs/pr"):
            api.create_branch(name, branch=revision, exist_ok=True)
    return api, name


def _fetch_card(api: Any, name: str, folder: Path, revision: str | None) -> None:
    """Puts the repository's card into the folder, so that saving keeps it if it is not ours."""
    from huggingface_hub.errors import EntryNotFoundError, RevisionNotFoundError

    with (
        _plain_errors(f"nothing was saved or uploaded to {name}"),
        contextlib.suppress(EntryNotFoundError, RevisionNotFoundError),
    ):
        cached = api.hf_hub_download(name, README, revision=revision)
        (folder / README).write_bytes(Path(cached).read_bytes())


@contextlib.contextmanager
def _plain_errors(what: str) -> Iterator[None]:
    """Within, what the Hub client raises becomes one sentence.

    Raises:
        PermissionError: there is no token, or one that may not do this.
        ConnectionError: anything else.
    """
    from huggingface_hub import errors

    # the client's own errors, and those of the library below it, which in newer versions are no OSErrors
    known = cast(tuple[type[Exception], ...], (OSError, *errors.HfHubHTTPError.__bases__))
    try:
        yield
    except errors.LocalTokenNotFoundError:
        raise PermissionError(f"{what}: there is no access token. To give one, {_HOW}.") from None
    except errors.OfflineModeIsEnabled:
        raise ConnectionError(
            f"{what}: the Hub client is offline, by the environment variable HF_HUB_OFFLINE; unset it."
        ) from None
    except known as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise PermissionError(
                f"{what}: the Hub refuses the access token ({status}: {_one_line(error)}). It needs the right to "
                f"write there; to give another, {_HOW}."
            ) from None
        why = "is the Hub reachable" if status is None else f"what does its answer {status} mean"
        place = os.environ.get("HF_ENDPOINT", "huggingface.co")
        raise ConnectionError(f"{what} ({place}: {why}?): {type(error).__name__}: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()), _LONGEST)
