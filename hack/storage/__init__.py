"""Local storage servers for the demonstration and the tests: S3 (versitygw), GCS (fake-gcs-server), Azure (azurite)."""
