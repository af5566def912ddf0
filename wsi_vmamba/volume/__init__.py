"""VMamba over volumes: video clips, and focal stacks of slides.

Importing this module loads no torch; building a network does.
"""
