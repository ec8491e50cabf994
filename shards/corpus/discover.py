"""What a corpus URI holds: its root, its kind, its data files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import cast

import fsspec  # pyright: ignore[reportMissingTypeStubs]

from ...schema import ConfigError, CorpusSpec, DataError
from ...schema.corpus import CorpusKind
from .finished import shard_files
from .hub import PREFIX, HubTable, parse_hub
from .remote import FileSystem, RemoteStore
from .store import LocalStore, Store

MANIFEST = "manifest.jsonl"
SHARDS_MANIFEST = "manifest.json"
_CAPTIONS_PRESET = "dreambench++"

SUFFIXES: dict[CorpusKind, tuple[str, ...]] = {
    "manifest": (MANIFEST,),
    "parquet": (".parquet",),
    "webdataset": (".tar",),
    "jsonl": (".jsonl",),
    "csv": (".csv", ".tsv"),
    "shards": (SHARDS_MANIFEST,),
}
"""Names of data files by kind; the order in which a folder is searched."""


@dataclass(frozen=True)
class Found:
    """A corpus located: nothing of it is read yet."""

    spec: CorpusSpec
    """With an absolute URI, kind and name filled."""
    store: Store
    named: str | None
    """The one data file, when the URI names a file."""

    @cached_property
    def files(self) -> list[str]:
        """Data files in row order."""
        if self.named is not None and self.spec.kind != "shards":
            return [self.named]
        kind = cast("CorpusKind", self.spec.kind)
        if kind == "shards":
            return shard_files(self.store, SHARDS_MANIFEST)
        if kind == "captions":
            return ["captions"]
        files = self.store.list(SUFFIXES[kind])
        if kind == "manifest":
            files = [path for path in files if PurePosixPath(path).name == MANIFEST]
        if not files:
            raise ConfigError(
                f"{self.spec.uri} holds no {' or '.join(SUFFIXES[kind])} file, though it is read as {kind}"
            )
        return files


def discover(spec: CorpusSpec) -> Found:
    """Locate a corpus.

    Raises:
        ConfigError: there is nothing at the URI, or more or less than one kind of data; with the way out.
    """
    if (spec.uri.startswith(PREFIX) and not spec.uri.startswith(PREFIX + "//")) or spec.kind == "hf":
        return _discover_hub(spec)
    if "://" in spec.uri and not spec.uri.startswith("file://"):
        return _discover_url(spec)
    path = Path(spec.uri.removeprefix("file://")).expanduser().absolute()
    if not path.exists():
        raise ConfigError(f"no corpus at {path}: expected a folder, a file, an fsspec URL or hf:NAME[:split]")
    if path.is_file():
        kind = spec.kind or _kind_of_file(path.name)
        store = LocalStore(path.parent, named=path.name)
        named = path.name
        if kind == "shards" or (kind == "manifest" and path.name == MANIFEST):
            return Found(_resolved(spec, str(path.parent), kind, path.parent.name), LocalStore(path.parent), named)
        return Found(_resolved(spec, str(path), kind, path.stem), store, named)
    store = LocalStore(path)
    if spec.kind is None and (path / MANIFEST).is_file():
        kind, named = "manifest", MANIFEST
    elif spec.kind is None and _is_shards(path / SHARDS_MANIFEST):
        kind, named = "shards", SHARDS_MANIFEST
    else:
        kind = spec.kind or _kind_of_folder(store)
        top = {"manifest": MANIFEST, "shards": SHARDS_MANIFEST}.get(kind)
        named = top if top is not None and (path / top).is_file() else None
    return Found(_resolved(spec, str(path), kind, path.resolve().name), store, named)


def image_store(spec: CorpusSpec) -> Store | None:
    """The store of a separate image root, None where pictures lie beside the data.

    Raises:
        ConfigError: the image root is no folder.
    """
    if spec.image_root is None:
        return None
    if "://" in spec.image_root:
        return _remote(spec.image_root.rstrip("/"))
    folder = Path(spec.image_root).expanduser().absolute()
    if not folder.is_dir():
        raise ConfigError(f"image root {folder} is no folder")
    return LocalStore(folder)


def _discover_url(spec: CorpusSpec) -> Found:
    url = spec.uri.rstrip("/")
    name = PurePosixPath(url).name
    if name.endswith(tuple(suffix for group in SUFFIXES.values() for suffix in group)):
        parent = url[: -len(name) - 1]
        kind = spec.kind or _kind_of_file(name)
        is_folder = name in (MANIFEST, SHARDS_MANIFEST)
        title = PurePosixPath(parent).name if is_folder else PurePosixPath(name).stem
        return Found(_resolved(spec, url, kind, title or "corpus"), _remote(parent), name)
    store = _remote(url)
    if spec.kind in (None, "manifest") and store.exists(MANIFEST):
        return Found(_resolved(spec, url, "manifest", name), store, MANIFEST)
    if spec.kind in (None, "shards") and store.exists(SHARDS_MANIFEST):
        return Found(_resolved(spec, url, "shards", name), store, SHARDS_MANIFEST)
    return Found(_resolved(spec, url, spec.kind or _kind_of_folder(store), name), store, None)


def _discover_hub(spec: CorpusSpec) -> Found:
    name, config, split = parse_hub(spec.uri)
    if Path(name).expanduser().exists():
        name = str(Path(name).expanduser().absolute())
    uri = PREFIX + ":".join(part for part in (name, config, split) if part is not None)
    title = "-".join(part for part in (PurePosixPath(name).name, config, split) if part is not None)
    return Found(_resolved(spec, uri, "hf", title), LocalStore(Path.cwd()), HubTable.uri)


def _remote(url: str) -> RemoteStore:
    try:
        system, path = cast("tuple[FileSystem, str]", fsspec.core.url_to_fs(url))
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot open {url}: {error}") from error
    return RemoteStore(system, path, url=url)


def _kind_of_file(name: str) -> CorpusKind:
    if name == SHARDS_MANIFEST:
        return "shards"
    for kind, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    endings = ", ".join(suffix for group in SUFFIXES.values() for suffix in group)
    raise ConfigError(
        f"cannot tell what {name} is: expected a name that ends in {endings}, or say --set corpus.kind=jsonl (or another kind)"
    )


def _kind_of_folder(store: Store) -> CorpusKind:
    endings = tuple(suffix for kind, group in SUFFIXES.items() if kind != "shards" for suffix in group)
    files = store.list(endings)
    manifests = [path for path in files if PurePosixPath(path).name == MANIFEST]
    if manifests:
        beside = [path for path in files if "/" not in path and path != MANIFEST]
        if MANIFEST not in manifests and beside:
            raise ConfigError(
                f"the folder holds {beside[0]} and, further down, {manifests[0]}: name one of them, or say "
                "--kind manifest for all manifests"
            )
        return "manifest"
    if not files and any(path.startswith("captions/") for path in store.list((".txt",))):
        return "captions"
    counts: dict[CorpusKind, int] = {}
    for path in files:
        kind = _kind_of_file(path)
        counts[kind] = counts.get(kind, 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    if not counts:
        raise ConfigError(
            f"{store.root} is no corpus: no {MANIFEST}, and no file that ends in {', '.join(endings[1:])}; "
            "docs/corpora.md shows what can be read"
        )
    listed = ", ".join(f"{count} {kind} file{'s' * (count > 1)}" for kind, count in counts.items())
    raise ConfigError(f"{store.root} holds {listed}: say which to read with --set corpus.kind={next(iter(counts))}")


def _is_shards(path: Path) -> bool:
    try:
        value: object = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(value, dict) and "shards" in value and "format_version" in value


def _resolved(spec: CorpusSpec, uri: str, kind: CorpusKind, name: str) -> CorpusSpec:
    if not (spec.name or name):
        raise DataError(f"{uri} has no name of its own: give the corpus one with --name")
    preset = spec.preset or (_CAPTIONS_PRESET if kind == "captions" and not spec.columns else None)
    return spec.model_copy(update={"uri": uri, "kind": kind, "name": spec.name or name, "preset": preset})
