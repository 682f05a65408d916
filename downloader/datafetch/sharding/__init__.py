"""One fetch by several processes: each brings a part of the files, and a last, small run publishes them together.

    team/.datafetch/llama/shards/plans/ID          what there is to fetch, and how much of it is whose: written last
    team/.datafetch/llama/shards/plans/ID+N        every file, one a line, with the shard that it belongs to
    team/.datafetch/llama/shards/I/lock, epochs/N  of each shard: as of a fetch by one process
    team/.datafetch/llama/shards/I/{files,done}    what shard I has brought; `done` is written last
    team/.datafetch/llama/shards/published         which plan was published, as which revision

Shard 0 lists, once for each plan; the others wait for it (`plan_file`). Who gets what is decided in `assignment`. A
shard is a fetch whose plan is read, not listed, and whose end is a record, not a link (`fetching`, `layout`); it is
resumed like any other. The last run (`publication`) takes all that the records name into one revision, and flips the
link once.
"""

from datafetch.sharding.fetching import run_shard, shard_from
from datafetch.sharding.publication import publish_shards

__all__ = ["publish_shards", "run_shard", "shard_from"]
