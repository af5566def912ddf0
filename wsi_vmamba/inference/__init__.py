"""The CPU encoder: VMamba over a whole region in row strips, in place on one channels-last map.

Only the scan is global. Norms, projections, convolutions and the MLP look at a token or its neighbours, so they run
strip by strip in memory that stays in cache; the wide intermediate maps of the plain model never exist.
"""
