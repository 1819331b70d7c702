"""The latency report: where the time went, drawn on one page that needs nothing else.

The drawing lives in `peer`, and draws any document of `document.py`: what one peer remembers (`history.py`), or what
the testnet gathered from a run and hands over as a file to `peer report --data` - a process, as everything between the
two rooms - so that neither imports the other and there is one set of charts.  Nothing here needs a daemon, a network or
a package beside the standard library.
"""
