"""Pictures of results and the numbers behind them. Import `plots` or `heatmap`; both draw without a display."""
