"""The "futures" engine on a cluster: its driver and its tasks."""
