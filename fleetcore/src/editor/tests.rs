//! The editor on files of this host.

use std::{
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
};

use proptest::prelude::*;

use super::*;
use crate::Fleet;

struct Place {
    dir: tempfile::TempDir,
    editor: Editor,
}

impl Place {
    async fn new() -> Self {
        let files = Fleet::local().machine("local").unwrap().files().await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), editor: Editor::new(files) }
    }

    fn real(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.real(name).display().to_string()
    }

    fn put(&self, name: &str, contents: impl AsRef<[u8]>) -> String {
        std::fs::write(self.real(name), contents).unwrap();
        self.path(name)
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.real(name)).unwrap()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn an_edit_is_made_and_taken_back_byte_for_byte() {
    let at = Place::new().await;
    let original = b"\xef\xbb\xbfone\r\ntwo\nthree\r\n";
    let path = at.put("f", original);
    let change = at.editor.replace(&path, "one\ntwo", "1\n2").await.unwrap();
    assert_eq!((change.after.as_str(), change.first_line), ("1\n2\nthree\n", 1));
    assert_eq!(change.diff("f"), "--- f\n+++ f\n@@ -1,2 +1,2 @@\n-one\n-two\n+1\n+2");
    assert_eq!(at.bytes("f"), b"\xef\xbb\xbf1\r\n2\nthree\r\n");
    at.editor.insert(&path, 3, "four\nfive").await.unwrap();
    assert_eq!(at.bytes("f"), b"\xef\xbb\xbf1\r\n2\nthree\r\nfour\r\nfive\r\n");
    at.editor.undo(&path).await.unwrap();
    assert_eq!(at.editor.undo(&path).await.unwrap().after, "one\ntwo\nthree\n");
    assert_eq!(at.bytes("f"), original);
    assert!(matches!(at.editor.undo(&path).await, Err(EditError::NoHistory)));
}

#[tokio::test]
async fn mode_and_links_stay() {
    let at = Place::new().await;
    let path = at.put("f", "a\n");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    symlink("f", at.real("soft")).unwrap();
    at.editor.insert(&at.path("soft"), 0, "top").await.unwrap();
    assert!(at.real("soft").is_symlink());
    assert_eq!((at.bytes("f"), mode(&at.real("f"))), (b"top\na\n".to_vec(), 0o750));

    std::fs::hard_link(&path, at.real("hard")).unwrap();
    let inode = std::fs::metadata(&path).unwrap().ino();
    at.editor.replace(&path, "top\n", "").await.unwrap();
    assert_eq!((at.bytes("f"), at.bytes("hard")), (b"a\n".to_vec(), b"a\n".to_vec()));
    assert_eq!((std::fs::metadata(at.real("hard")).unwrap().ino(), mode(&at.real("hard"))), (inode, 0o750));

    symlink("made", at.real("dangling")).unwrap();
    at.editor.create(&at.path("dangling"), "x").await.unwrap();
    assert!(at.real("dangling").is_symlink());
    assert_eq!(at.bytes("made"), b"x");
    let names: Vec<_> = std::fs::read_dir(at.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 5, "nothing is left behind: {names:?}");
}

#[tokio::test]
async fn what_cannot_be_edited_stays_as_it_is() {
    let at = Place::new().await;
    let binary = at.put("b", b"\0\x01");
    assert!(matches!(at.editor.view(&binary, None).await, Err(EditError::Binary)));
    let large = at.put("l", "x".repeat(11));
    let small = Limits { file_bytes: 10, ..Limits::default() };
    let editor = at.editor.clone().with_limits(small);
    assert!(matches!(
        editor.replace(&large, "x", "").await,
        Err(EditError::TooLarge { bytes: 11, limit: 10 })
    ));
    let dir = at.dir.path().display().to_string();
    assert!(matches!(at.editor.insert(&dir, 0, "x").await, Err(EditError::IsDirectory)));
    assert!(matches!(at.editor.view(&dir, Some((1, 2))).await, Err(EditError::NoLines)));
    assert!(matches!(at.editor.create(&dir, "x").await, Err(EditError::Exists)));
    for missing in ["none", "l/none"] {
        assert!(matches!(at.editor.undo(&at.path(missing)).await, Err(EditError::NotFound)), "{missing}");
        let created = at.editor.create(&at.path(&format!("{missing}/f")), "x").await;
        assert!(matches!(created, Err(EditError::Write(_))), "{missing}");
    }
    let text = at.put("t", "a b a\nb\n");
    let many = at.editor.replace(&text, "b", "c").await;
    assert!(matches!(many, Err(EditError::Ambiguous { lines, .. }) if lines == [1, 2]));
    assert!(
        matches!(at.editor.replace(&text, " zzz ", "c").await, Err(EditError::NoMatch { searched }) if searched == "zzz")
    );
    assert!(matches!(at.editor.insert(&text, 3, "c").await, Err(EditError::OutOfRange { lines: 2 })));
    assert!(matches!(at.editor.insert(&text, -1, "c").await, Err(EditError::OutOfRange { lines: 2 })));
    assert_eq!((at.bytes("t"), at.bytes("b")), (b"a b a\nb\n".to_vec(), b"\0\x01".to_vec()));
    assert!(matches!(at.editor.undo(&text).await, Err(EditError::NoHistory)));
}

#[tokio::test]
async fn a_fifo_is_refused_and_not_waited_for() {
    let at = Place::new().await;
    let fifo = at.real("fifo");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(matches!(at.editor.view(&at.path("fifo"), None).await, Err(EditError::NotAFile)));
}

#[tokio::test]
async fn lines_are_shown_as_asked() {
    let at = Place::new().await;
    let path = at.put("f", "1\n2\n3");
    let view = async |lines| at.editor.view(&path, Some(lines)).await;
    let file =
        |text: &str, first_line, past_end| Shown::File { text: text.into(), first_line, lines: 3, past_end };
    assert_eq!(view((2, -1)).await.unwrap(), file("2\n3", 2, false));
    assert_eq!(view((2, 9)).await.unwrap(), file("2\n3", 2, true));
    assert_eq!(view((1, 1)).await.unwrap(), file("1\n", 1, false));
    for first in [0, 4, -1, i64::MIN] {
        assert!(matches!(view((first, 5)).await, Err(EditError::OutOfRange { lines: 3 })), "{first}");
    }
    for last in [1, 0, -2] {
        assert!(matches!(view((2, last)).await, Err(EditError::Reversed)), "{last}");
    }
    at.put("f", "1");
    std::fs::create_dir_all(at.real("d e/.hid")).unwrap();
    at.put("d e/in", "");
    symlink("d e", at.real("link")).unwrap();
    symlink("nowhere", at.real("dangling")).unwrap();
    let root = at.dir.path().display().to_string();
    let Shown::Directory(tree) = at.editor.view(&root, None).await.unwrap() else {
        panic!("not a directory")
    };
    let shown: Vec<_> =
        tree.entries.iter().map(|e| (e.path.strip_prefix(&root).unwrap(), e.is_dir)).collect();
    let expected = [
        ("", true),
        ("/d e", true),
        ("/d e/in", false),
        ("/dangling", false),
        ("/f", false),
        ("/link", true),
        ("/link/in", false),
    ];
    assert_eq!((shown, tree.hidden), (expected.to_vec(), 0));
}

#[tokio::test]
async fn changes_at_the_same_time_are_all_made() {
    let at = Place::new().await;
    let path = at.put("f", "");
    let inserts = (0..20).map(|n| {
        let (editor, path) = (at.editor.clone(), path.clone());
        async move { editor.insert(&path, 0, &n.to_string()).await.map(drop) }
    });
    futures::future::try_join_all(inserts).await.unwrap();
    assert_eq!(at.bytes("f").iter().filter(|b| **b == b'\n').count(), 20);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A replacement is made exactly if the text occurs exactly once, and is then the only difference.
    #[test]
    fn only_what_is_unique_is_replaced(text in "[ab\n]{0,12}", old in "[ab\n]{1,3}", new in "[AB]{0,3}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let at = Place::new().await;
            let path = at.put("f", &text);
            let outcome = at.editor.replace(&path, &old, &new).await;
            let (old, new) = if text.contains(&old) { (old.as_str(), new) } else { (old.trim(), new) };
            match text.matches(old).count() {
                0 => {
                    let refused = matches!(outcome, Err(EditError::NoMatch { .. }));
                    prop_assert!(refused);
                }
                1 => {
                    prop_assert_eq!(outcome.unwrap().after, text.replace(old, &new));
                    prop_assert_eq!(at.bytes("f"), text.replace(old, &new).into_bytes());
                }
                _ => {
                    let refused = matches!(outcome, Err(EditError::Ambiguous { .. }));
                    prop_assert!(refused);
                }
            }
            Ok(())
        })?;
    }
}
