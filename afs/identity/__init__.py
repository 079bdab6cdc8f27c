"""Who is calling: names, tokens that prove them, and the issuers that are believed."""
