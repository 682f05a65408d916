"""The four task examples of the Kaiwo downloader's documentation, as they stand there, with the placeholders filled."""

GCS_CREDENTIALS = "test/secrets/gcs/credentials.json"
"""Fills `<path_to_credentials>`."""

EXAMPLES = {
    "hf": """\
- type: hf
  name: Hugging Face download example
  repo_id: TinyLlama/TinyLlama-1.1B-Chat-v1.0
  files:
    - README.md
""",
    "gcs": f"""\
- type: gcs
  name: Test GCS
  application_credentials_path: {GCS_CREDENTIALS}
  items:
    - bucket: test
      items:
        - path: .
          glob: "**/*"
          target_path: gcs/all
        - path: subdir
          glob: "**/*"
          target_path: gcs/sub
        - path: subdir/file02.txt
          target_path: gcs/single.txt
        - path: .
          glob: "**/*.md"
          target_path: gcs/glob
""",
    "s3": """\
- type: s3
  name: Test Minio
  endpoint_url_file: test/secrets/s3/endpoint
  access_key_id_file: test/secrets/s3/access_key_id
  secret_key_file: test/secrets/s3/secret_key
  items:
    - bucket: test
      items:
        - path: .
          glob: "**/*"
          target_path: s3/all
        - path: subdir
          glob: "**/*"
          target_path: s3/sub
        - path: subdir/file02.txt
          target_path: s3/single.txt
""",
    "azure-blob": """\
- type: azure-blob
  name: Test Azurite
  connection_string_file: test/secrets/azure/connection_string
  items:
    - container: test
      items:
        - path: .
          glob: "**/*"
          target_path: azure/all
        - path: subdir
          glob: "**/*"
          target_path: azure/sub
        - path: subdir/file02.txt
          target_path: azure/single.txt
""",
}


def config_with(*examples: str, root: str = "test/output") -> str:
    """Return a whole config with these examples as its tasks."""
    tasks = "".join(f"  {line}\n" for example in examples for line in example.splitlines())
    return f"download_root: {root}\ndownload_items:\n{tasks}"
