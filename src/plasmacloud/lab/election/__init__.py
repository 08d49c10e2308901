"""The rig for leader election on PostgreSQL: a server of our own, election servers, fenced writes, watching eyes."""
