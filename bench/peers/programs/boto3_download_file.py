"""boto3's `download_file` as people use it: list the bucket, and a pool of threads over the files.

python boto3_download_file.py ENDPOINT BUCKET TARGET
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
from botocore.config import Config

FILES_AT_ONCE = 16


def main() -> None:
    """Download a bucket."""
    endpoint, bucket, target = sys.argv[1:4]
    config = Config(max_pool_connections=64, s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=endpoint, config=config)
    made: set[str] = set()

    def download(key: str) -> None:
        client.download_file(bucket, key, os.path.join(target, key))

    with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
        pending = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for found in page["Contents"]:
                directory = os.path.dirname(os.path.join(target, found["Key"]))
                if directory not in made:
                    os.makedirs(directory, exist_ok=True)
                    made.add(directory)
                pending.append(pool.submit(download, found["Key"]))
        for future in pending:
            future.result()


if __name__ == "__main__":
    main()
