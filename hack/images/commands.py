"""The command line: `python3 hack/images COMMAND`."""

import argparse
import sys
import time

from cluster import provider
from cluster.errors import ClusterError
from images import builder


def main() -> int:
    """Run one command; 1 and a sentence if it can't be done."""
    parser = argparse.ArgumentParser(prog="python3 hack/images", description="Build and load the container images.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("build", help="build both, and save them for `load`").set_defaults(run=_build)
    commands.add_parser("load", help="bring the built images to the cluster's nodes").set_defaults(run=_load)
    commands.add_parser("sizes", help="print the images' sizes").set_defaults(run=_sizes)
    try:
        parser.parse_args().run()
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _build() -> None:
    chosen = builder.choose()
    for image in builder.IMAGES:
        started = time.monotonic()
        chosen.build(image)
        chosen.save(image)
        print(f"built {image.name} in {time.monotonic() - started:.1f} s", flush=True)


def _load() -> None:
    if missing := [image for image in builder.IMAGES if not image.archive.is_file()]:
        raise ClusterError(f"{missing[0].name} is not built: run `python3 hack/images build` first.")
    started = time.monotonic()
    provider.choose().load([image.archive for image in builder.IMAGES])
    print(f"loaded {', '.join(image.name for image in builder.IMAGES)} in {time.monotonic() - started:.1f} s")


def _sizes() -> None:
    chosen = builder.choose()
    for image in builder.IMAGES:
        print(f"{image.name}: {chosen.size(image) / 1e6:.0f} MB")
