"""The emulators of the Kaiwo downloader's examples: S3, GCS and Azure Blob on its ports, with its sample data."""
