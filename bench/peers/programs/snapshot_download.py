"""huggingface_hub's `snapshot_download` into a directory.

python snapshot_download.py ENDPOINT REPOSITORY TARGET
"""

import sys

from huggingface_hub import snapshot_download

WORKERS = 16


def main() -> None:
    """Download a repository."""
    endpoint, repository, target = sys.argv[1:4]
    snapshot_download(repository, endpoint=endpoint, local_dir=target, max_workers=WORKERS)


if __name__ == "__main__":
    main()
