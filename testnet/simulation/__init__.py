"""Thousands of peers in virtual time, running the real `protocol/` code; and what it is compared with."""
