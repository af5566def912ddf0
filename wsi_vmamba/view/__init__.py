"""The viewer's server: slides, and what was made of them, for a browser on this machine.

`serve` runs it; `app` holds the routes; `safety` stands before all of them; `catalogue` knows what is shown and gives
it the ids that are the only way to it; `picture` makes the tiles.
"""
