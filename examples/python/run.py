"""Run a command and look at what came of it. Build the package first: see fleetcore-py/README.md."""

import fleetcore

fleet = fleetcore.Fleet.local()

result = fleet.run("local", ["uname", "-sr"]).check()
print(result.stdout.decode(), end="")

# A program that fails does not raise until it is checked.
result = fleet.run("local", ["sh", "-c", "echo no >&2; exit 3"], timeout=10)
print(result.exit_code, result.stderr)

# Every error has its own class and a stable code.
try:
    fleet.run("local", ["/no/such/program"])
except fleetcore.NotFoundError as error:
    print(error.code)
