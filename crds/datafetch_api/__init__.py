"""The contract between the parts of DataFetch: typed models and pure functions, no I/O.

The operator renders a `DataFetch` resource (`resource`) into the downloader's `config`; the downloader answers with
`report` lines, one result and an exit code from `exit_codes`. Both programs import this package and nothing of each
other. The CRDs in `crds/` are generated from `resource` by `make generate`.
"""

GROUP = "datafetch.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "DataFetch"
PLURAL = "datafetches"

__all__ = ["API_VERSION", "GROUP", "KIND", "PLURAL", "VERSION"]
