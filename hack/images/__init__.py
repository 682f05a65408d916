"""The two container images: `python3 hack/images build`, `load` and `sizes`, with Docker or without.

Standard library only. The Dockerfiles say what is in the images; here stand the base image for machines without a
registry (`base.py`), the two builders (`builder.py`) and how pip reaches its registry (`registry.py`).
"""
