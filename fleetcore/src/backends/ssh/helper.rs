//! The helper that sits on the machine for each connection: it sends signals to process groups, which sshd does not,
//! finds what a command left behind, and ends all commands of the connection when that breaks.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use parking_lot::Mutex;
use russh::{Channel, ChannelMsg, client::Msg};
use tokio::sync::{mpsc, oneshot};

use super::{error, script};
use crate::{CommandId, Error, ErrorKind, Result, Signal};

/// How long the helper may take to answer. Searching all processes takes milliseconds; a stuck machine may take longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// Requests that may wait to be sent.
const QUEUE: usize = 64;
/// Longest line that is taken from the helper; its own are far shorter.
const LINE_MAX: usize = 4 << 10;

/// Reads requests line by line: `a ID`, `p ID PID TTY`, `d ID`, and `s SEQ NAME ID PID TTY`, where PID is 0 when the
/// leader has ended (its number may mean somebody else by now). When its input ends, everything still listed is killed; what
/// had been told to begin and had not, is looked for once more when it must have.
///
/// `groups` and `marked` read /proc; where there is none they find nothing, and only the process group is reached.
const SCRIPT: &str = r#"exec 2>/dev/null
trap '' HUP INT QUIT TERM PIPE
LC_ALL=C; export LC_ALL
cd /
groups() {
  cat /proc/[0-9]*/stat | awk -v s="$1" '{ sub(/^.*\) /, ""); if ($4 == s && $1 != "Z" && $1 != "X" && !($3 in d)) { d[$3] = 1; print $3 } }'
}
marked() {
  grep -lsF -- "MARKER=$1" /proc/[0-9]*/environ
}
send() {
  if [ "$3" = 1 ]; then for g in $(groups "$2"); do [ "$g" = "$2" ] || kill -s "$1" -- "-$g"; done; fi
  kill -s "$1" -- "-$2" || kill -s "$1" "$2"
}
finish() {
  n=0
  while [ "$n" -lt 20 ]; do
    found=
    if [ "$2" -gt 1 ]; then
      kill -s KILL -- "-$2" || kill -s KILL "$2"
      if [ "$3" = 1 ]; then for g in $(groups "$2"); do kill -s KILL -- "-$g" && found=1; done; fi
    fi
    for f in $(marked "$1"); do f=${f#/proc/}; kill -s KILL "${f%/environ}" && found=1; done
    [ -n "$found" ] || break
    n=$((n + 1))
  done
}
all=
drop() {
  rest=
  for x in $all; do case $x in "$1":*) ;; *) rest="$rest $x";; esac; done
  all=$rest
}
echo "TOKEN ready"
while IFS=' ' read -r c a b d e f; do
  case $c in
  a) all="$all $a:0:0";;
  p) drop "$a"; all="$all $a:$b:$d";;
  d) drop "$a";;
  s) if [ "$b" = KILL ]; then finish "$d" "$e" "$f"; elif [ "$e" -gt 1 ]; then send "$b" "$e" "$f"; fi; echo "TOKEN $a";;
  esac
done
late=
for x in $all; do
  id=${x%%:*}; x=${x#*:}
  finish "$id" "${x%%:*}" "${x#*:}"
  case $x in 0:*) late="$late $id";; esac
done
[ -n "$late" ] || exit 0
sleep 2
for id in $late; do finish "$id" 0 0; done
"#;

type Waiting = Mutex<Option<HashMap<u64, oneshot::Sender<()>>>>;

/// Our side of the helper.
#[derive(Debug)]
pub(super) struct Helper {
    requests: mpsc::Sender<Bytes>,
    waiting: Arc<Waiting>,
    next: AtomicU64,
}

fn signal_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Hangup => "HUP",
        Signal::Interrupt => "INT",
        Signal::Quit => "QUIT",
        Signal::Terminate => "TERM",
        Signal::Kill => "KILL",
        Signal::Stop => "STOP",
        Signal::Continue => "CONT",
        Signal::User1 => "USR1",
        Signal::User2 => "USR2",
    }
}

/// Takes whole lines that start with `token` out of what came in so far; gives what stands behind it.
pub(super) fn lines<'a>(buffer: &'a mut Vec<u8>, token: &'a str) -> impl Iterator<Item = String> + 'a {
    std::iter::from_fn(move || {
        loop {
            let end = memchr::memchr(b'\n', buffer)?;
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).into_owned();
            // What the user's shell says when it starts may stand before it on the same line.
            if let Some((_, said)) = line.trim_end().split_once(token) {
                return Some(said.trim_start().to_owned());
            }
        }
    })
}

impl Helper {
    /// Starts the helper on a channel of its own.
    pub(super) async fn start(channel: Channel<Msg>) -> Result<Self> {
        let failed = |e| error::ssh("start helper", e);
        let token = format!("fleetcore-{:032x}", rand::random::<u128>());
        let script = SCRIPT.replace("MARKER", script::MARKER).replace("TOKEN", &token);
        let (mut read, write) = channel.split();
        write.exec(false, script::BOOTSTRAP).await.map_err(failed)?;
        write.data_bytes(script::line(&script)).await.map_err(failed)?;
        let (mut buffer, mut said) = (Vec::new(), Vec::new());
        loop {
            match read.wait().await {
                Some(ChannelMsg::Data { data }) if buffer.len() < LINE_MAX => {
                    buffer.extend_from_slice(&data);
                    if lines(&mut buffer, &token).next().is_some() {
                        break;
                    }
                }
                Some(ChannelMsg::Data { .. } | ChannelMsg::ExtendedData { .. }) if said.len() > LINE_MAX => {}
                Some(ChannelMsg::ExtendedData { data, .. }) => said.extend_from_slice(&data),
                Some(ChannelMsg::Eof | ChannelMsg::Close | ChannelMsg::Failure) | None => {
                    let message = "the account on the machine does not run commands in a POSIX shell";
                    return Err(Error::new(ErrorKind::Unsupported, message)
                        .with_operation("start helper")
                        .with_context("said", String::from_utf8_lossy(&said).trim().escape_debug()));
                }
                Some(_) => {}
            }
        }
        let (requests, mut queue) = mpsc::channel::<Bytes>(QUEUE);
        let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
        let answered = Arc::clone(&waiting);
        tokio::spawn(async move {
            while let Some(msg) = read.wait().await {
                let ChannelMsg::Data { data } = msg else { continue };
                if buffer.len() > LINE_MAX {
                    break;
                }
                buffer.extend_from_slice(&data);
                for said in lines(&mut buffer, &token) {
                    let done = said.parse().ok().and_then(|seq: u64| answered.lock().as_mut()?.remove(&seq));
                    let _ = done.map(|d| d.send(()));
                }
            }
            *answered.lock() = None;
        });
        tokio::spawn(async move {
            while let Some(request) = queue.recv().await {
                if write.data_bytes(request).await.is_err() {
                    return;
                }
            }
            let _ = write.eof().await;
        });
        Ok(Self { requests, waiting, next: AtomicU64::new(1) })
    }

    async fn tell(&self, line: String) -> Result<()> {
        self.requests.send(line.into()).await.map_err(|_| error::lost("signal"))
    }

    /// A command is about to begin: from now on it ends with the connection.
    pub(super) async fn add(&self, id: CommandId) -> Result<()> {
        self.tell(format!("a {id}\n")).await
    }

    /// It has begun.
    pub(super) async fn begun(&self, id: CommandId, pid: u32, tty: bool) -> Result<()> {
        self.tell(format!("p {id} {pid} {}\n", u8::from(tty))).await
    }

    /// It is over, or is to be left alone.
    pub(super) fn forget(&self, id: CommandId) {
        let line = Bytes::from(format!("d {id}\n"));
        if let Err(mpsc::error::TrySendError::Full(line)) = self.requests.try_send(line)
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let requests = self.requests.clone();
            runtime.spawn(async move { requests.send(line).await });
        }
    }

    /// Signals a command's tree and waits until that is done. `pid` is `None` once the leader has ended, or before it
    /// is known; then only `Kill` finds anything.
    pub(super) async fn signal(
        &self,
        signal: Signal,
        id: CommandId,
        pid: Option<u32>,
        tty: bool,
    ) -> Result<()> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (done, answer) = oneshot::channel();
        match self.waiting.lock().as_mut() {
            Some(waiting) => waiting.insert(seq, done),
            None => return Err(error::lost("signal")),
        };
        let (name, pid, tty) = (signal_name(signal), pid.unwrap_or(0), u8::from(tty));
        let asked = async {
            self.tell(format!("s {seq} {name} {id} {pid} {tty}\n")).await?;
            answer.await.map_err(|_| error::lost("signal"))
        };
        let answered = tokio::time::timeout(ANSWER_LIMIT, asked).await;
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.remove(&seq);
        }
        answered.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Timeout, "the machine did not answer").with_operation("signal"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_lines_with_the_token_count() {
        let mut buffer = b"motd\nhello T 7\r\nT 8\nT 9".to_vec();
        assert_eq!(lines(&mut buffer, "T").collect::<Vec<_>>(), ["7", "8"]);
        assert_eq!(buffer, b"T 9");
    }

    #[test]
    fn the_script_is_one_that_sh_takes() {
        let checked = std::process::Command::new("sh").args(["-n", "-c", SCRIPT]).status().unwrap();
        assert!(checked.success());
    }
}
