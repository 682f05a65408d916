"""The command lines and variables of Super Obj Soaker's documentation, as they stand there."""

EXAMPLES = """\
python s3_optimized_downloader.py s3://mybucket/data /local/path
python s3_optimized_downloader.py s3://mybucket/data /local/path --region us-west-2 --log-level DEBUG
python s3_optimized_downloader.py s3://mybucket/data /local/path --endpoint-url http://localhost:8333
"""
DEFAULTS = {
    "MIN_PROCESSES": "1",
    "MAX_PROCESSES": "16",
    "MAX_SPEED": "99999999999999999999",
    "OPTIMIZATION_INTERVAL": "10",
    "MAX_RETRIES": "3",
    "RETRY_DELAY": "5",
}
"""Every variable with the default that the documentation names."""


def arguments(example: str) -> list[str]:
    """Return the arguments of a command line, without the program."""
    python, program, *rest = example.split()
    assert (python, program) == ("python", "s3_optimized_downloader.py")
    return rest
