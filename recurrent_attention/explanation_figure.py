"""The picture of an explanation: one strip that is understood at a glance."""
