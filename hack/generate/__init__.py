"""Everything that is derived from the models of `datafetch_api`: the CRD, the chart's copy of it, the reference."""
