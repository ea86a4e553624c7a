"""From what size on distributing a network pays: measured, and decided."""
