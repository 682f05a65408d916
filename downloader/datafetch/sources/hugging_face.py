"""The Hugging Face Hub: the SDK resolves the revision and lists its tree; the bytes go over `transport`.

Everything is of one commit. A large file's link to the CDN is kept for its other ranges; where files are kept in xet
storage, that link leads to its bridge, which serves plain bytes. Selections are `selection`'s business, the cache's
layout is `hub_cache`'s, what counts as weights is `weights`'s.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from typing import TypeVar
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import HfApi, RepoFile, RepoFolder, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import parse_ratelimit_headers

from datafetch.credentials import CredentialFiles, Secrets
from datafetch.errors import (
    CredentialsRejectedError,
    DataFetchError,
    InvalidConfigError,
    SourceNotFoundError,
    SourceUnavailableError,
)
from datafetch.sources import ByteRange, Checksum, ChecksumAlgorithm, Entry, HttpAccess
from datafetch.sources.hub_cache import RefReader, is_ref, ref_entry, repository_folder, snapshot_path
from datafetch.sources.links import Links
from datafetch.sources.ranges import open_range, quote_key
from datafetch.sources.retries import with_renewal, with_retries
from datafetch.sources.selection import literal_names, select
from datafetch.sources.weights import SAFETENSORS, is_left_out
from datafetch.transport import Pin, RangeBody, Refusal, Request, Transport, classify
from datafetch.transport.refusals import reason_of, retry_after
from datafetch_api.config import HuggingFaceItem, Selection

_SDK_ERRORS = (httpx2.HTTPError, HFValidationError, EntryNotFoundError, OfflineModeIsEnabled, OSError, ValueError)
_DIRECTORIES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_LINK_SECONDS = 900.0
"""A link to the CDN is good for an hour; it is asked for again well before."""
_MOST_NAMED = 5
"""Files that one sentence names."""
_DISABLED = "Access to this resource is disabled"
"""The Hub has no code for this."""
_T = TypeVar("_T")


class HuggingFaceSource:
    """One `hf` item. `stall_timeout` is the seconds that a connection may stay silent."""

    def __init__(self, item: HuggingFaceItem, *, stall_timeout: float) -> None:
        self._item = item
        self._secrets = Secrets()
        self._files = CredentialFiles(item.name, item.credentials_dir, self._secrets)
        self._resolving = threading.Lock()
        self._renewing = threading.Lock()
        self._closed = threading.Event()
        self._links = Links()
        self._commit: str | None = None
        self._token = self._read_token()
        self._api = HfApi(endpoint=item.endpoint_url, token=self._token or False)
        self._hub = self._api.endpoint.rstrip("/")
        self._page = f"{self._hub}/{_DIRECTORIES[item.repo_type]}{item.repo_id}"
        self._timeout = stall_timeout
        ca_file = self._files.authorities(item.ca_bundle_file)
        self._transport = Transport(
            stall_timeout=stall_timeout, secrets=self._secrets, ca_file=ca_file, classify=self._classify
        )
        if ca_file is not None:
            from datafetch.sources.hub_client import trust

            trust(self._hub, self._transport.tls_context())

    @property
    def name(self) -> str:
        """The item's name."""
        return self._item.name

    @property
    def resolved_revision(self) -> str | None:
        """The commit that the revision stood for, once listed."""
        return self._commit

    @property
    def verifies(self) -> str:
        """What is verified of each file beside its size."""
        return "SHA-256 of large files, git's SHA-1 of the others"

    @property
    def http(self) -> HttpAccess:
        """The source itself: its bytes come by plain HTTP requests."""
        return self

    @property
    def transport(self) -> Transport:
        """The source's data plane."""
        return self._transport

    def list(self) -> Iterator[Entry]:
        """Yield the files of the commit that the item selects."""
        item = self._item
        selection = item.selection
        if item.target_path is None and item.layout == "files":
            # The default names a directory, also where the item is one file.
            selection = selection.model_copy(update={"target_path": item.repo_id + "/"})
        try:
            self._refuse_contradiction(selection)
            commit = self._resolve()
            where = f"{item.repo_type} repository {item.repo_id!r} at {commit[:12]}"
            missing = literal_names(selection)
            found = select((selection,), where, self._find, self._scan)
            for entry in self._without_other_weights(found, where):
                missing.discard(entry.key.removeprefix(selection.prefix))
                yield entry if item.layout == "files" else self._cached(entry, commit)
            self._refuse_missing(missing, selection, where)
            if item.layout == "hub-cache" and item.revision != commit:
                yield ref_entry(self._cache_root, self._folder, item.revision, commit)
        except DataFetchError as error:
            raise error.at(self.name) from None

    @property
    def _cache_root(self) -> str:
        """Where the cache lies below the download's root; ends at a slash or is empty."""
        target = (self._item.target_path or ".").removeprefix("./").strip("/")
        return "" if target in ("", ".") else f"{target}/"

    @property
    def _folder(self) -> str:
        return repository_folder(self._item.repo_type, self._item.repo_id)

    def _cached(self, entry: Entry, commit: str) -> Entry:
        """Return a file where the cache has it: by its whole path in the repository, whatever was selected."""
        return replace(entry, path=self._cache_root + snapshot_path(self._folder, commit, entry.key))

    def _without_other_weights(self, entries: Iterator[Entry], where: str) -> Iterator[Entry]:
        """Yield the files without weights in other formats, where only safetensors are wanted.

        Raises SourceNotFoundError where that leaves no weights: a model without any is not what somebody asked for.
        """
        if self._item.formats == "all":
            yield from entries
            return
        left_out: list[str] = []
        has_weights = False
        for entry in entries:
            if is_left_out(entry.key):
                left_out.append(entry.key)
                continue
            has_weights = has_weights or entry.key.lower().endswith(SAFETENSORS)
            yield entry
        if left_out and not has_weights:
            named = ", ".join(map(repr, left_out[:_MOST_NAMED])) + (" ..." if len(left_out) > _MOST_NAMED else "")
            raise SourceNotFoundError(
                f"{where} has no weights in safetensors among what is selected; it has {named}: take those with "
                "formats: all, if you trust them, or choose a revision that was converted"
            )

    def _refuse_contradiction(self, selection: Selection) -> None:
        """Raise InvalidConfigError where a file is named that the choice of formats leaves out."""
        names = {selection.prefix + name for name in literal_names(selection)}
        if selection.effective_match == "object":
            names.add(selection.path)
        refused = sorted(name for name in names if is_left_out(name))
        if self._item.formats == "safetensors" and refused:
            raise InvalidConfigError(
                f"{refused[0]!r} is asked for by name, and formats: safetensors leaves it out; take out one of the two"
            )

    def open(self, entry: Entry, byte_range: ByteRange) -> RangeBody | RefReader:
        """Ask for a range of the file, once more with a new token where its file was rotated meanwhile."""
        if is_ref(entry):
            return RefReader(entry, byte_range)
        ask = partial(self._open, entry, byte_range)
        return with_renewal(ask, self._reload, source=self.name, key=entry.key)

    def prepare(self, entry: Entry, byte_range: ByteRange) -> tuple[Request, Pin]:  # noqa: ARG002 - HttpAccess has it
        """Return the GET of a range of the file: at the CDN where its link is known, else at the Hub."""
        if is_ref(entry):
            raise SourceUnavailableError(f"{entry.key!r} is written here: there is nothing to ask the Hub for")
        link = self._links.get(entry.key)
        return (self._request_to_hub(entry) if link is None else Request(link)), Pin(entry.size)

    def promised_checksum(self, entry: Entry, headers: Mapping[str, str]) -> Checksum | None:  # noqa: ARG002 - as above
        """Return the checksum that the listing named."""
        return entry.checksum

    def look_up(self, entry: Entry) -> Entry:
        """Return the entry: a file of a commit never changes."""
        return entry

    def close(self) -> None:
        """Release connections. The SDK's own are shared by the process and stay."""
        self._closed.set()
        self._transport.close()

    def _open(self, entry: Entry, byte_range: ByteRange) -> RangeBody:
        link = self._links.get(entry.key)
        try:
            body = open_range(self, entry, byte_range)
        except (CredentialsRejectedError, SourceNotFoundError, SourceUnavailableError) as error:
            if link is not None:
                # It has expired, or what it leads to fails.
                self._links.forget(entry.key, link)
            if isinstance(error, SourceUnavailableError) or not _is_large(entry):
                raise
            # The refusal may be the CDN's, of a link that was too old: the Hub gives another one.
            body = self._transport.open_range(self._request_to_hub(entry), byte_range, Pin(entry.size))
            body.checksum = entry.checksum
        is_part = byte_range.end is not None and byte_range.end - byte_range.start != entry.size
        if is_part and body.url != link and urlsplit(body.url).netloc != urlsplit(self._page).netloc:
            self._links.keep(entry.key, body.url, _LINK_SECONDS)
        return body

    def _request_to_hub(self, entry: Entry) -> Request:
        """Return the GET that the Hub answers with the bytes of a small file, with a link to those of a large one."""
        url = f"{self._page}/resolve/{self._commit or self._resolve()}/{quote_key(entry.key)}"
        return Request(url, {}, {"Authorization": f"Bearer {self._token}"} if self._token else {})

    def _resolve(self) -> str:
        """Return the commit that the revision stands for; asked for once."""
        item = self._item
        with self._resolving:
            if self._commit is None:
                info = self._ask(
                    lambda: self._api.repo_info(
                        item.repo_id,
                        revision=item.revision,
                        repo_type=item.repo_type,
                        timeout=self._timeout,
                        expand=["sha"],  # type: ignore[arg-type]  # the SDK takes a list, and says one value
                    )
                )
                if not info.sha:
                    raise SourceUnavailableError(f"{self._page} names no commit for revision {item.revision!r}")
                self._commit = info.sha
            return self._commit

    def _find(self, path: str) -> Entry | None:
        item, commit = self._item, self._resolve()
        found = self._ask(
            lambda: self._api.get_paths_info(item.repo_id, paths=[path], revision=commit, repo_type=item.repo_type)
        )
        return next((_entry(file) for file in found if isinstance(file, RepoFile) and file.path == path), None)

    def _scan(self, prefix: str) -> Iterator[Entry]:
        try:
            first, others = self._ask(lambda: self._open_tree(prefix))
            for found in chain(first, others):
                if isinstance(found, RepoFile):
                    yield _entry(found)
        except _SDK_ERRORS as error:
            raise self._from_sdk(error) from None

    def _open_tree(self, prefix: str) -> tuple[Sequence[RepoFile | RepoFolder], Iterator[RepoFile | RepoFolder]]:
        """Return what lies below a directory: the first of it, and the rest, for which the SDK asks again itself."""
        tree = iter(
            self._api.list_repo_tree(
                self._item.repo_id,
                path_in_repo=prefix.rstrip("/") or None,
                recursive=True,
                revision=self._resolve(),
                repo_type=self._item.repo_type,
            )
        )
        try:
            return tuple(islice(tree, 1)), tree
        except EntryNotFoundError:
            # No such directory: nothing lies below it, and who selects says so.
            return (), iter(())

    def _ask(self, ask: Callable[[], _T]) -> _T:
        """Return what one of the SDK's functions returns, its errors in our words; asked again with a new token."""

        def once() -> _T:
            try:
                return ask()
            except _SDK_ERRORS as error:
                raise self._from_sdk(error) from None

        try:
            return with_retries(once, self._closed)
        except (CredentialsRejectedError, SourceNotFoundError):
            # To who may not see it, the Hub says that a repository is not there.
            if not self._reload():
                raise
            return with_retries(once, self._closed)

    def _refuse_missing(self, missing: set[str], selection: Selection, where: str) -> None:
        if missing:
            name = selection.prefix + min(missing)
            raise SourceNotFoundError(f"{where} has no file {name!r}; check the name among files", key=name)

    def _read_token(self) -> str | None:
        """Return the item's token, else the SDK's own: HF_TOKEN, or what a login left."""
        token = self._files.value("token_file", self._item.token_file, "HF_TOKEN", "token") or get_token()
        return self._secrets.add(token) if token else None

    def _reload(self) -> bool:
        """Read the token again where its file has changed; return whether it is another one."""
        with self._renewing:
            if not self._files.has_changed():
                return False
            before, self._token = self._token, self._read_token()
            self._api.token = self._token or False
            return self._token != before

    def _from_sdk(self, error: Exception) -> DataFetchError:
        """Return our error for one of the SDK's."""
        if isinstance(error, HfHubHTTPError):
            response = error.response
            headers = {name.lower(): value for name, value in response.headers.items()}
            message = self._secrets.redact(error.server_message or "").rstrip(".")
            return self._classify(
                Refusal(response.status_code, "", self._page, headers, _code(error, headers), message)
            )
        message = self._secrets.redact(str(error).partition("\n")[0]).rstrip(".")
        if isinstance(error, httpx2.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in message:
            return InvalidConfigError(
                f"{self._hub} has a certificate that is not trusted; name its CA in ca_bundle_file (caBundle), "
                "SSL_CERT_FILE, or as ca.crt among the credentials"
            )
        if isinstance(error, httpx2.TransportError):
            return SourceUnavailableError(f"{self._page} cannot be reached: {reason_of(error) or message}")
        if isinstance(error, httpx2.HTTPError | OSError) and not isinstance(error, OfflineModeIsEnabled):
            return SourceUnavailableError(f"{self._page} cannot be read: {message}")
        return InvalidConfigError(f"{self._page}: {message}")

    def _classify(self, refusal: Refusal) -> DataFetchError:
        """Return the error that the Hub's code stands for; where it has none, the status decides."""
        place = f"{refusal.url} answered {refusal.answer}"
        code = "DisabledRepo" if refusal.message.startswith(_DISABLED) else refusal.code
        match code:
            case "GatedRepo":
                return CredentialsRejectedError(f"{place}; {self._way_through_the_gate(refusal)}")
            case "RepoNotFound":
                remedy = (
                    "the token may not see it: a private repository wants a token with read access of an account that "
                    "is a member, and a fine-grained one has to name it"
                    if self._token
                    else "give a token (HF_TOKEN) with read access where it is private"
                )
                return SourceNotFoundError(f"{place}; check repo_id and repo_type, or {remedy}")
            case "RevisionNotFound":
                revision, repo_id = self._item.revision, self._item.repo_id
                return SourceNotFoundError(
                    f"{place}; {repo_id!r} has no revision {revision!r}: name a branch, tag, commit or refs/pr/N"
                )
            case "EntryNotFound":
                return SourceNotFoundError(f"{place}; check the path")
            case "DisabledRepo":
                return SourceNotFoundError(f"{place}; the Hub has disabled the repository, see {self._page}")
        if refusal.status == 401:
            remedy = "expired, revoked or cut short; make another one with read access" if self._token else "missing"
            return CredentialsRejectedError(f"{place}; check the token, it is {remedy} ({self._hub}/settings/tokens)")
        if refusal.status == 429:
            wait = _wait_of(refusal.headers)
            return SourceUnavailableError(f"{place}: it asks for fewer requests", retry_after=wait, throttled=True)
        return classify(refusal)

    def _way_through_the_gate(self, refusal: Refusal) -> str:
        """Return what to do about a gated repository: what to accept, where, and with which token."""
        if not self._token:
            return (
                f"accept the conditions at {self._page} and give a token of that account (HF_TOKEN), with read access "
                f"({self._hub}/settings/tokens)"
            )
        if "awaiting" in refusal.message:
            return f"its authors have to grant the request first; how it stands is at {self._page}"
        return (
            f"accept the conditions at {self._page} with the token's account; a fine-grained token also needs read "
            f"access to public gated repositories ({self._hub}/settings/tokens)"
        )


def _code(error: HfHubHTTPError, headers: dict[str, str]) -> str:
    """Return the Hub's code; the SDK knows some refusals by other signs."""
    code = headers.get("x-error-code")
    if code:
        return code
    kinds: tuple[tuple[type[HfHubHTTPError], str], ...] = (
        (GatedRepoError, "GatedRepo"),
        (RepositoryNotFoundError, "RepoNotFound"),
        (RevisionNotFoundError, "RevisionNotFound"),
        (DisabledRepoError, "DisabledRepo"),
    )
    return next((code for kind, code in kinds if isinstance(error, kind)), "")


def _wait_of(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait before the next request: Retry-After, else those of the Hub's RateLimit header."""
    wait = retry_after(headers.get("retry-after"))
    limit = parse_ratelimit_headers(headers)
    return wait if wait is not None or limit is None or limit.remaining else float(limit.reset_in_seconds)


def _is_large(entry: Entry) -> bool:
    """Return whether a file is kept outside of git: then the Hub answers with a link to it."""
    return entry.checksum is not None and entry.checksum.algorithm is ChecksumAlgorithm.SHA256


def _entry(file: RepoFile) -> Entry:
    if file.lfs is not None:
        sha256 = file.lfs.sha256
        return Entry(file.path, "", file.lfs.size, f"oid:{sha256}", Checksum(ChecksumAlgorithm.SHA256, sha256))
    checksum = Checksum(ChecksumAlgorithm.GIT_BLOB, file.blob_id)
    return Entry(file.path, "", file.size, f"oid:{file.blob_id}", checksum)
