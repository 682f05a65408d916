"""Plain obstore with asyncio: list the bucket, whole small objects and ranges of large ones, written as they come.

python obstore_get.py ENDPOINT BUCKET TARGET REQUESTS_AT_ONCE
"""

import asyncio
import os
import sys
from collections.abc import Iterator

from obstore.store import S3Store  # type: ignore[import-not-found] # only in the peers' environment

RANGE_BYTES = 8 << 20


async def main() -> None:
    """Download a bucket."""
    endpoint, bucket, target = sys.argv[1:4]
    requests = int(sys.argv[4])
    store = S3Store(
        bucket,
        endpoint=endpoint,
        virtual_hosted_style_request=False,
        client_options={"allow_http": True},
    )
    queue: asyncio.Queue[tuple[str, int, int, int] | None] = asyncio.Queue(10_000)

    async def work() -> None:
        while (job := await queue.get()) is not None:
            key, start, end, size = job
            if end - start == size:
                data = await (await store.get_async(key)).bytes_async()
            else:
                data = await store.get_range_async(key, start=start, end=end)
            descriptor = os.open(os.path.join(target, key), os.O_WRONLY | os.O_CREAT, 0o644)
            os.pwrite(descriptor, memoryview(data), start)
            os.close(descriptor)

    async with asyncio.TaskGroup() as group:
        for _ in range(requests):
            group.create_task(work())
        made: set[str] = set()
        async for page in store.list():
            for found in page:
                directory = os.path.dirname(os.path.join(target, found["path"]))
                if directory not in made:
                    os.makedirs(directory, exist_ok=True)
                    made.add(directory)
                for job in _ranges(found["path"], found["size"]):
                    await queue.put(job)
        for _ in range(requests):
            await queue.put(None)


def _ranges(key: str, size: int) -> Iterator[tuple[str, int, int, int]]:
    for start in range(0, max(size, 1), RANGE_BYTES):
        yield key, start, min(start + RANGE_BYTES, size), size


if __name__ == "__main__":
    asyncio.run(main())
