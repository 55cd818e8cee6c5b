from metriclab.cli import main

main()
