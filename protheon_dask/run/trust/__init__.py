"""Who is let in: the cluster's authority, what a host shows and what it is asked for, and how both are kept as files."""
