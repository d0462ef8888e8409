# Connects to an address and passes bytes between it and the pipes of this program. Only the standard library, nothing is
# installed or left behind. The first line of the output says how it went: "ok", or a word and what the system said. A
# line "end" of error output says that the address has sent all: an output that ends without it is a connection that broke.
import os, socket, sys, threading

CHUNK = 65536
try:
    peer = socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3]))
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
except PermissionError as e:
    os.write(1, ("denied %s\n" % e).encode())
    os._exit(0)
except OSError as e:
    os.write(1, ("refused %s\n" % e).encode())
    os._exit(0)
os.write(1, b"ok\n")


def there():
    try:
        while True:
            data = os.read(0, CHUNK)
            if not data:
                break
            peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        os._exit(1)


def write(data):
    while data:
        data = data[os.write(1, data) :]


sending = threading.Thread(target=there)
sending.start()
try:
    while True:
        data = peer.recv(CHUNK)
        if not data:
            break
        write(memoryview(data))
except OSError:
    os._exit(1)
os.write(2, b"end\n")
# Closed for who reads, but not numbers that something else could get.
null = os.open("/dev/null", os.O_RDWR)
os.dup2(null, 1)
os.dup2(null, 2)
sending.join()
os._exit(0)
