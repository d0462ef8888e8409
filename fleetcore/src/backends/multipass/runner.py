# Runs one program on the machine for fleetcore, over the pipes of `multipass exec`. Python is there wherever
# cloud-init is, which Multipass cannot do without. Only the standard library, nothing is installed or left behind.
#
# Both directions carry frames: a letter, four bytes of length (big endian), the payload. Before the first frame to the
# host comes the mark from argv[1], so that whatever the client prints before it can be told apart.
#
# from the host: H header, D input, T input in a file, Q end of input, K signal, W window size, R credit for output,
#                L leave the tree alone and go, G kill the tree and go
# to the host:   S started, F could not start, O output, E error output, P terminal output, Z all output ended,
#                A input consumed, C input closed by the program, X exit
#
# When the connection is lost the program is killed: nobody would ever hear of it again.
import errno, fcntl, os, select, signal, struct, sys, termios

HERE, CHUNK, FRAME_COST = os.getpid(), 65536, 256
out, inbuf, feed = bytearray(), bytearray(), []
credit = 1 << 18


def say(kind, data=b""):
    out.extend(kind + struct.pack(">I", len(data)) + data)


def flush_all():
    os.set_blocking(1, True)
    try:
        while out:
            del out[: os.write(1, out)]
    except OSError:
        pass


def frames():
    while len(inbuf) >= 5:
        size = struct.unpack(">I", inbuf[1:5])[0]
        if len(inbuf) < 5 + size:
            return
        frame = bytes(inbuf[0:1]), bytes(inbuf[5 : 5 + size])
        del inbuf[: 5 + size]
        yield frame


def header():
    while True:
        for kind, data in frames():
            return data.split(b"\0")[:-1]
        data = os.read(0, CHUNK)
        if not data:
            os._exit(0)
        inbuf.extend(data)


def refuse(stage, number):
    say(b"F", b"%s %d %s" % (stage, number, os.strerror(number).encode()))
    flush_all()
    os._exit(0)


def stat_of(pid):
    with open("/proc/%d/stat" % pid, "rb") as f:
        fields = f.read().rpartition(b")")[2].split()
    return fields[0], int(fields[2]), int(fields[3])  # state, group, session


def processes():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != HERE:
            yield int(name)


def alive(pid):
    try:
        return stat_of(pid)[0] not in (b"Z", b"X")
    except (OSError, ValueError, IndexError):
        return False


def members(marked):
    """Living processes of the program: its session, and whoever inherited its mark."""
    for pid in processes():
        try:
            state, group, session = stat_of(pid)
            if state in (b"Z", b"X"):
                continue
            if child in (group, session):
                yield pid, group
            elif marked:
                with open("/proc/%d/environ" % pid, "rb") as f:
                    if mine in f.read().split(b"\0"):
                        yield pid, group
        except (OSError, ValueError, IndexError):
            continue


def send(pids, number):
    denied = []
    for pid in pids:
        try:
            os.kill(pid, number)
        except PermissionError:
            denied.append(str(pid))
        except OSError:
            pass
    if denied:  # what runs under sudo is ended with sudo
        try:
            pid = os.posix_spawnp("sudo", ["sudo", "-n", "kill", "-s", str(number), "--", *denied], os.environb)
            os.waitpid(pid, 0)
        except OSError:
            pass


def kill_tree():
    for _ in range(50):
        found = [pid for pid, _ in members(True)]
        if not found:
            return
        send(found, signal.SIGKILL)
        if not any(alive(pid) for pid in found):
            continue
        select.select([], [], [], 0.005)


def signal_tree(number):
    global asked
    asked = number != signal.SIGKILL
    if number == signal.SIGKILL:
        kill_tree()
    elif terminal:  # job control puts each job in a group of its own
        send([-group for group in {group for _, group in members(False)} | {child}], number)
    else:
        send([-child], number)


def go(code=0):
    if spool:
        for name in os.listdir(spool):
            os.unlink(os.path.join(spool, name))
        os.rmdir(spool)
    os._exit(code)


os.write(1, sys.argv[1].encode() + b"\n")
fields = {}
for field in header():
    fields.setdefault(field[:1], []).append(field[1:])
argv, mine = fields[b"a"], b"FLEETCORE_COMMAND_ID=" + fields[b"i"][0]
terminal, with_input = b"p" in fields, b"s" in fields
with open("/proc/self/environ", "rb") as f:  # os.environ has what Python itself set, e.g. LC_CTYPE
    inherited = dict(v.split(b"=", 1) for v in f.read().split(b"\0") if b"=" in v)
home = inherited.get(b"HOME", b"/")
env = {} if b"x" in fields else dict(inherited)
account = None
if b"u" in fields:
    import pwd

    try:
        account = pwd.getpwnam(os.fsdecode(fields[b"u"][0]))
    except KeyError:
        refuse(b"user", errno.ENOENT)
    if os.geteuid() != 0:
        refuse(b"user", errno.EPERM)
    env.update({b"USER": account.pw_name.encode(), b"LOGNAME": account.pw_name.encode()})
    env.update({b"HOME": account.pw_dir.encode(), b"SHELL": account.pw_shell.encode()})
    if os.path.isdir(account.pw_dir):
        home = account.pw_dir.encode()
cwd = os.path.join(home, fields[b"c"][0]) if b"c" in fields else home
if b"x" not in fields:
    env[b"PWD"] = cwd
if terminal:
    env[b"TERM"] = b"xterm-256color"
for name, _, value in (item.partition(b"=") for item in fields.get(b"e", [])):
    env[name] = value
env.setdefault(*mine.split(b"=", 1))
spool = None
if with_input:
    # Files arrive as whoever logs in, and in that home.
    login = os.fsdecode(inherited.get(b"HOME", b"/"))
    sudo_uid = inherited.get(b"SUDO_UID")
    if os.geteuid() == 0 and sudo_uid:
        import pwd

        login = pwd.getpwuid(int(sudo_uid)).pw_dir
    spool_name = ".fleetcore-%s" % os.urandom(8).hex()
    spool = os.path.join(login, spool_name)
    os.mkdir(spool, 0o700)
    if os.geteuid() == 0 and sudo_uid:
        os.chown(spool, int(sudo_uid), -1)

report_r, report_w = os.pipe()
ours, theirs = {}, []
if terminal:
    master, slave = os.openpty()
    cols, rows = map(int, fields[b"p"][0].split())
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
    if account:
        os.fchown(slave, account.pw_uid, -1)
    ours[master] = b"P"
    theirs = [slave, slave, slave]
    feed_fd = master
else:
    feed_fd = None
    if with_input:
        stdin_r, feed_fd = os.pipe()
    else:
        stdin_r = os.open("/dev/null", os.O_RDONLY)
    stdout_r, stdout_w = os.pipe()
    ours[stdout_r] = b"O"
    stderr_w = stdout_w
    if b"m" not in fields:
        stderr_r, stderr_w = os.pipe()
        ours[stderr_r] = b"E"
    theirs = [stdin_r, stdout_w, stderr_w]

wake_r, wake_w = os.pipe()
os.set_blocking(wake_r, False)
os.set_blocking(wake_w, False)
signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
signal.signal(signal.SIGCHLD, lambda *_: None)

child = os.fork()
if child == 0:
    stage = b"program"
    try:
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if terminal:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        # Above 2, so that none of the three is overwritten before it is copied.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in theirs]
        for number, fd in enumerate(high):
            os.dup2(fd, number)
        if account:
            stage = b"user"
            os.initgroups(account.pw_name, account.pw_gid)
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
        stage = b"cwd"
        os.chdir(cwd)
        stage = b"program"
        if b"/" in argv[0]:
            os.execve(argv[0], argv, env)
        else:
            os.execvpe(argv[0], argv, env)
    except OSError as e:
        os.write(report_w, b"%s %d" % (stage, e.errno or errno.EIO))
    finally:
        os._exit(127)

for fd in {*theirs, report_w}:
    os.close(fd)
failed = os.read(report_r, 64)
if failed:
    os.waitpid(child, 0)
    if spool:
        os.rmdir(spool)
    stage, number = failed.split()
    refuse(stage, int(number))
say(b"S", b"%d %s" % (child, spool_name.encode() if spool else b""))
for fd in {0, 1, *ours} | ({feed_fd} if feed_fd is not None else set()):
    os.set_blocking(fd, False)

ended, asked, input_over, last = False, False, False, b"\n"


def take(fd):
    """One piece of the program's output; False when there is none now."""
    global credit
    try:
        data = os.read(fd, CHUNK)
    except BlockingIOError:
        return False
    except OSError:  # a terminal whose other side is closed
        data = b""
    if data:
        say(ours[fd], data)
        credit -= len(data) + FRAME_COST
        return True
    if fd != feed_fd:
        os.close(fd)
    del ours[fd]
    if not ours:
        say(b"Z")
    return False


def close_input():
    global feed_fd
    if feed_fd is not None and not terminal:
        os.close(feed_fd)
        feed_fd = None


def push():
    """Feeds the program."""
    global feed_fd, last
    while feed and feed_fd is not None:
        if feed[0] is None:
            # In the middle of a line the first one only hands over what was typed.
            modes = termios.tcgetattr(feed_fd)
            twice = modes[3] & termios.ICANON and last not in b"\r\n"
            feed[0] = memoryview(modes[6][termios.VEOF] * (2 if twice else 1))
        if isinstance(feed[0], str):
            with open(feed[0], "rb") as f:
                data = f.read()
            os.unlink(feed[0])
            feed[0] = memoryview(data)
        try:
            n = os.write(feed_fd, feed[0][:CHUNK])
        except BlockingIOError:
            return
        except OSError:
            feed.clear()
            say(b"C")
            if not terminal:
                close_input()
            else:
                feed_fd = None
            return
        say(b"A", struct.pack(">I", n))
        last = bytes(feed[0][n - 1 : n])
        feed[0] = feed[0][n:]
        if not len(feed[0]):
            feed.pop(0)
    if input_over and not feed:
        close_input()


def obey():
    """Does what the host says."""
    global credit, input_over
    for kind, data in frames():
        if kind == b"D":
            feed.append(memoryview(data))
        elif kind == b"T":
            feed.append(os.path.join(spool, os.fsdecode(data)))
        elif kind == b"Q":
            input_over = True
            if terminal:
                feed.append(None)
        elif kind == b"K":
            signal_tree(int(data))
        elif kind == b"W" and terminal:
            cols, rows = map(int, data.split())
            for fd in ours:
                fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        elif kind == b"R":
            credit += struct.unpack(">I", data)[0]
        elif kind == b"L":
            go()
        elif kind == b"G":
            kill_tree()
            go()


obey()  # what came with the header
push()
while True:
    # A program that was asked to end may have left others behind: the host says whether they are killed.
    if ended and not ours and not out and not asked:
        os.waitpid(child, 0)
        go()
    reads = [0, wake_r] + (list(ours) if credit > 0 else [])
    writes = ([1] if out else []) + ([feed_fd] if feed and feed_fd is not None else [])
    readable, writable, _ = select.select(reads, writes, [])
    if wake_r in readable:
        try:
            os.read(wake_r, CHUNK)
        except BlockingIOError:
            pass
    for fd in list(ours):
        if fd in readable:
            take(fd)
    if not ended:
        # It stays unreaped until we go: its id, which is that of its group, cannot come to mean something else.
        status = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        if status:
            ended = True
            # What it wrote before its end comes before the news of it: a pipe holds a megabyte at most.
            for fd in list(ours):
                for _ in range(32):
                    if not take(fd):
                        break
            code = status.si_code == os.CLD_EXITED
            say(b"X", b"%s %d" % (b"c" if code else b"s", status.si_status))
    if 0 in readable:
        try:
            data = os.read(0, CHUNK)
        except BlockingIOError:
            data = None
        except OSError:
            data = b""
        if data == b"":
            if asked or not ended:
                kill_tree()
            go()
        inbuf.extend(data or b"")
        obey()
        push()
    elif feed_fd in writable:
        push()
    if 1 in writable or out:
        try:
            del out[: os.write(1, out)]
        except BlockingIOError:
            pass
        except OSError:  # the connection is lost
            if asked or not ended:
                kill_tree()
            go()
