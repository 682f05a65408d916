"""From a DataFetch to the objects that carry it out: claim, ConfigMap and Job, as plain JSON. Pure, golden-tested."""
