"""`report.html`: the whole run on one page that needs no network, no server and no JavaScript."""
