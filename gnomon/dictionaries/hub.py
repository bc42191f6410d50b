"""Dictionaries on the Hugging Face hub: one dictionary's files are downloaded, then read like any local folder.

A collection holds hundreds of gigabytes, so the repository's file names are listed first and only the dictionary that
path, layer, width and l0 name is asked for. Without a network what was downloaded before is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

from gnomon.dictionaries.collection import Found, of_files
from gnomon.errors import UserError

CONFIGS = ("cfg.json", "config.json", "hyperparams.json")


def is_hub_id(text: str) -> bool:
    """owner/name (a path inside it may follow): letters, digits, dot, dash, underscore."""
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(/[\w.,=-]+)*", text) is not None and ".." not in text


def download(repo: str, revision: str | None, choose: Callable[[Sequence[Found]], Found]) -> Path:
    """The local snapshot that holds at least the chosen dictionary's files; UserError where it cannot be had.

    choose: picks one of the dictionaries that the repository's file names show (and refuses where it cannot).
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        try:
            names = HfApi().list_repo_files(repo, revision=revision)
        except (GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):
            raise
        except Exception:  # offline, or the hub's own trouble: what is here must do
            return Path(snapshot_download(repo, revision=revision, local_files_only=True))
        one = choose(of_files(Path(repo), [Path(repo, name) for name in names]))
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns(repo, one)))
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"{repo!r} is gated", "its licence accepted on the hub", "then `hf auth login`") from None
    except RepositoryNotFoundError:
        raise UserError(f"no {repo!r} on the hub, and no such folder here", "owner/name, or a folder") from None
    except RevisionNotFoundError:
        raise UserError(f"{repo!r} has no revision {revision!r}", "a branch, tag or commit") from None
    except HFValidationError:
        raise UserError(f"unknown dictionary {repo!r}", "a folder, a weight file, or a hub id") from None
    except Exception as error:  # no network, a proxy's own errors, a full disk
        why = "HF_HUB_OFFLINE is set" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else None
        raise UserError(
            f"{repo!r} is not on this machine, and the hub cannot be reached ({why or type(error).__name__})",
            "a hub id that was downloaded before, a folder, or a weight file",
        ) from None


def patterns(repo: str, one: Found) -> list[str]:
    """The files to ask for: the dictionary's weights and the configurations beside them."""
    weights = PurePosixPath(one.weights.relative_to(repo).as_posix())
    folder = PurePosixPath("" if one.path == "." else one.path)
    return [str(weights), *(str(folder / name) for name in CONFIGS)]
