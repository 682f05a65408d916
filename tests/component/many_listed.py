"""A digest of as many empty files as asked for, from a source that makes them up: prints its peak memory in KiB.

    PYTHONPATH=tests python tests/component/many_listed.py COUNT

A process of its own, as `many_files` is, and for its reasons.
"""

import sys
import threading

from component.many_files import Numbers
from datafetch.listing import list_sources
from datafetch.progress import ProgressTracker
from datafetch.source_digest import digest_sources
from datafetch.sources import Source
from datafetch_api.config import DownloadConfig, DownloadItem


def main() -> None:
    count = int(sys.argv[1])
    item = {"type": "http", "name": "numbers", "items": [{"url": "http://127.0.0.1:1/"}]}
    config = DownloadConfig.model_validate({"download_root": ".", "download_items": [item]})

    def opener(item: DownloadItem, stall_timeout: float) -> Source:
        return Numbers(count)

    listing = list_sources(config, observer=ProgressTracker(), cancel=threading.Event(), opener=opener)
    found = digest_sources(listing.plan, config.download_items)
    assert (len(listing.plan), found.is_manifest_digest) == (count, True)
    with open("/proc/self/status") as status:
        print(next(line.split()[1] for line in status if line.startswith("VmHWM:")))


if __name__ == "__main__":
    main()
