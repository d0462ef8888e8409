//! What every machine promises about files, native or not.

use std::sync::Arc;

use bytes::Bytes;
use fleetcore::{ByteStream, Error, ErrorKind, FileKind, Files, OpContext, WriteOptions};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use super::{Case, cases};
use crate::{Env, fail, must, pattern, refused, tape};

/// All cases.
pub fn all() -> Vec<Case<Env>> {
    cases![
        native_files_work_or_are_unsupported,
        what_is_written_is_read,
        every_byte_is_kept,
        a_large_file_goes_through_in_a_stream,
        any_range_can_be_read,
        stat_tells_what_a_path_is,
        writing_truncates_what_was_there,
        appending_keeps_what_was_there,
        an_atomic_write_is_all_or_nothing,
        a_write_that_fails_is_told,
        permission_bits_are_set,
        missing_directories_are_made_on_request,
        a_directory_is_listed_by_name,
        odd_names_are_names,
        names_that_are_not_text_break_nothing,
        rename_replaces,
        remove_takes_what_it_is_told,
        what_is_missing_is_not_found,
        a_directory_is_not_a_file,
        bad_paths_name_the_field,
        a_tree_goes_out_and_in_as_tar,
        one_file_goes_out_as_tar,
        a_tar_that_climbs_out_is_refused,
        a_tar_that_is_damaged_is_refused,
    ]
}

fn once(data: impl Into<Bytes>) -> ByteStream {
    let data = data.into();
    stream::once(async { Ok(data) }).boxed()
}

fn pieces(data: &Bytes, size: usize) -> ByteStream {
    let pieces: Vec<_> = data.chunks(size).map(|p| Ok(Bytes::copy_from_slice(p))).collect();
    stream::iter(pieces).boxed()
}

async fn collect(bytes: ByteStream) -> Vec<u8> {
    must(
        bytes
            .try_fold(Vec::new(), |mut all, piece| async move {
                all.extend_from_slice(&piece);
                Ok(all)
            })
            .await,
    )
}

async fn put(files: &Files, path: &str, data: &str) {
    must(files.write(path, data.to_owned(), WriteOptions::default()).await);
}

async fn get(files: &Files, path: &str) -> String {
    String::from_utf8_lossy(&must(files.read(path).await)).into_owned()
}

async fn names(files: &Files, path: &str) -> Vec<String> {
    must(files.list(path).await).into_iter().map(|f| f.path).collect()
}

async fn native_files_work_or_are_unsupported(env: Arc<Env>) {
    let executor = must(env.machine.executor(&OpContext::default()).await);
    match executor.files() {
        Ok(files) if env.can.native_files => {
            let info = must(files.stat(&OpContext::default(), &env.dir).await);
            assert_eq!(info.kind, FileKind::Dir);
        }
        Ok(_) => fail("there are files, but native_files is off"),
        Err(error) => {
            assert!(!env.can.native_files, "native_files is on: {error:?}");
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }
}

async fn what_is_written_is_read(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("f"));
    let info = must(files.write(&path, "hello\n", WriteOptions::default()).await);
    assert_eq!((info.kind, info.size), (FileKind::File, 6));
    assert_eq!(get(&files, &path).await, "hello\n");
    assert_eq!(env.sh("cat \"$1\"", &[&path]).await, "hello\n", "others see it too");
    let empty = env.path("empty");
    put(&files, &empty, "").await;
    assert_eq!((get(&files, &empty).await.as_str(), must(files.stat(&empty).await).size), ("", 0));
}

async fn every_byte_is_kept(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("f"));
    let data: Vec<u8> = (0..=255).chain(0..=255).collect();
    must(files.write(&path, data.clone(), WriteOptions::default()).await);
    assert_eq!(must(files.read(&path).await), data);
}

async fn a_large_file_goes_through_in_a_stream(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("f"));
    let data = pattern(5_000_001);
    let info = must(files.write_stream(&path, WriteOptions::default(), pieces(&data, 77_777)).await);
    assert_eq!(info.size, data.len() as u64);
    let back = collect(must(files.read_stream(&path, 0, None).await)).await;
    assert!(back == data, "{} of {} bytes, or others", back.len(), data.len());
}

async fn any_range_can_be_read(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("f"));
    let data = pattern(100_000);
    must(files.write(&path, data.clone(), WriteOptions::default()).await);
    let end = data.len() as u64;
    let ranges = [
        (0, None),
        (0, Some(0)),
        (0, Some(1)),
        (1, Some(1)),
        (4095, Some(2)),
        (65_535, Some(3)),
        (99_999, None),
        (99_990, Some(1000)),
        (end, None),
        (end + 1, Some(5)),
        (u64::MAX / 2, None),
        (10, Some(u64::MAX)),
    ];
    for (offset, len) in ranges {
        let from = offset.min(end) as usize;
        let to = len.map_or(end, |len| offset.saturating_add(len).min(end)) as usize;
        let want = data.get(from..to.max(from)).unwrap_or_default();
        let got = collect(must(files.read_stream(&path, offset, len).await)).await;
        assert!(got == want, "{offset} {len:?}: {} instead of {} bytes", got.len(), want.len());
    }
}

async fn stat_tells_what_a_path_is(env: Arc<Env>) {
    let (files, dir) = (env.files().await, env.path("d"));
    env.sh("mkdir \"$1\" && cd \"$1\" && echo abc > f && chmod 640 f && ln -s f link && mkfifo fifo && ln -s no dead", &[&dir])
        .await;
    let file = must(files.stat(&format!("{dir}/f")).await);
    assert_eq!((file.kind, file.size, file.mode), (FileKind::File, 4, Some(0o640)));
    assert!(file.modified_at.is_some());
    assert_eq!(file.path, format!("{dir}/f"), "the path as it was asked for");
    assert_eq!(must(files.stat(&dir).await).kind, FileKind::Dir);
    assert_eq!(must(files.stat(&format!("{dir}/link")).await).kind, FileKind::File, "links are followed");
    assert_eq!(must(files.stat(&format!("{dir}/fifo")).await).kind, FileKind::Other);
    refused(files.stat(&format!("{dir}/dead")).await, ErrorKind::NotFound);
}

async fn writing_truncates_what_was_there(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("f"));
    put(&files, &path, "a long text").await;
    put(&files, &path, "short").await;
    assert_eq!(get(&files, &path).await, "short");
    must(files.write(&path, "again", WriteOptions::atomic()).await);
    assert_eq!(get(&files, &path).await, "again");
}

async fn appending_keeps_what_was_there(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("f"));
    let append = WriteOptions::default().with_append(true);
    must(files.write(&path, "one ", append).await);
    must(files.write(&path, "two ", append).await);
    let info = must(files.write_stream(&path, append, pieces(&Bytes::from("three"), 2)).await);
    assert_eq!(get(&files, &path).await, "one two three");
    assert_eq!(info.size, 13);
    let both = append.with_atomic(true);
    let error = refused(files.write(&path, "x", both).await, ErrorKind::InvalidInput);
    assert!(error.context_value("field").is_some(), "{error:?}");
}

fn breaks_off() -> ByteStream {
    let lost = Error::new(ErrorKind::Unavailable, "the source broke off");
    stream::iter([Ok(Bytes::from("half")), Err(lost)]).boxed()
}

async fn an_atomic_write_is_all_or_nothing(env: Arc<Env>) {
    let (files, dir) = (env.files().await, env.path("d"));
    must(files.create_dir(&dir).await);
    let path = format!("{dir}/f");
    put(&files, &path, "old").await;
    refused(files.write_stream(&path, WriteOptions::atomic(), breaks_off()).await, ErrorKind::Unavailable);
    assert_eq!(get(&files, &path).await, "old");
    assert_eq!(names(&files, &dir).await, ["f"], "no temporary file is left");

    // The same when the caller loses interest half-way.
    let never = stream::once(async { Ok(Bytes::from("half")) }).chain(stream::pending()).boxed();
    let mut write = Box::pin(files.write_stream(&path, WriteOptions::atomic(), never));
    assert!(futures::poll!(&mut write).is_pending());
    drop(write);
    assert_eq!(get(&files, &path).await, "old");
    must(files.write(&path, "new", WriteOptions::atomic()).await);
    assert_eq!(get(&files, &path).await, "new");
}

async fn a_write_that_fails_is_told(env: Arc<Env>) {
    let files = env.files().await;
    let path = env.path("missing/f");
    refused(files.write(&path, "x", WriteOptions::default()).await, ErrorKind::NotFound);
    refused(files.write(&path, "x", WriteOptions::atomic()).await, ErrorKind::NotFound);
    let plain = env.path("f");
    refused(files.write_stream(&plain, WriteOptions::default(), breaks_off()).await, ErrorKind::Unavailable);
}

async fn permission_bits_are_set(env: Arc<Env>) {
    let files = env.files().await;
    for opts in [WriteOptions::default(), WriteOptions::atomic()] {
        for mode in [0o600, 0o644, 0o755] {
            let path = env.path("f");
            must(files.write(&path, "x", opts.with_mode(Some(mode))).await);
            assert_eq!(must(files.stat(&path).await).mode, Some(mode), "{opts:?}");
        }
    }
}

async fn missing_directories_are_made_on_request(env: Arc<Env>) {
    let (files, path) = (env.files().await, env.path("a/b/c/f"));
    must(files.write(&path, "deep", WriteOptions::default().with_create_parents(true)).await);
    assert_eq!(get(&files, &path).await, "deep");
    let dir = env.path("x/y/z");
    must(files.create_dir(&dir).await);
    must(files.create_dir(&dir).await);
    assert_eq!(must(files.stat(&dir).await).kind, FileKind::Dir);
    refused(files.create_dir(&path).await, ErrorKind::AlreadyExists);
}

async fn a_directory_is_listed_by_name(env: Arc<Env>) {
    let (files, dir) = (env.files().await, env.path("d"));
    must(files.create_dir(&dir).await);
    assert!(must(files.list(&dir).await).is_empty());
    env.sh(
        "cd \"$1\" && echo abc > b && mkdir a && ln -s b c && echo x > .hidden && ln -s nowhere dead",
        &[&dir],
    )
    .await;
    let listed = must(files.list(&dir).await);
    let shown: Vec<_> = listed.iter().map(|f| (f.path.as_str(), f.kind)).collect();
    use FileKind::{Dir, File, Symlink};
    assert_eq!(shown, [(".hidden", File), ("a", Dir), ("b", File), ("c", Symlink), ("dead", Symlink)]);
    assert_eq!(listed.iter().find(|f| f.path == "b").map(|f| f.size), Some(4));
}

async fn odd_names_are_names(env: Arc<Env>) {
    let (files, dir) = (env.files().await, env.path("d"));
    must(files.create_dir(&dir).await);
    let mut odd = [
        " ", " a", "a ", "a b", "-n", "--help", "'", "\"", "$HOME", "`id`", "\\", "a\nb", "\n", "*", "?",
        "[a]", "~", "#", ";", "&", "ü", "日本", "🦀", "...", "a\tb", "%s",
    ];
    for name in odd {
        put(&files, &format!("{dir}/{name}"), name).await;
    }
    odd.sort_unstable();
    assert_eq!(names(&files, &dir).await, odd);
    for name in odd {
        let (path, moved) = (format!("{dir}/{name}"), format!("{dir}/moved {name}"));
        assert_eq!(get(&files, &path).await, name, "{name:?}");
        assert_eq!(must(files.stat(&path).await).size, name.len() as u64, "{name:?}");
        must(files.rename(&path, &moved).await);
        must(files.remove(&moved, false).await);
    }
    assert!(names(&files, &dir).await.is_empty());
}

async fn names_that_are_not_text_break_nothing(env: Arc<Env>) {
    let (files, dir) = (env.files().await, env.path("d"));
    must(files.create_dir(&dir).await);
    let made =
        env.run(crate::sh("cd \"$1\" && echo x > \"$(printf 'a\\377b')\" && echo y > plain", &[&dir])).await;
    if made.check().is_err() {
        // This file system takes only text.
        return;
    }
    let listed = names(&files, &dir).await;
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.contains(&"plain".to_owned()));
    must(files.remove(&dir, true).await);
    refused(files.stat(&dir).await, ErrorKind::NotFound);
}

async fn rename_replaces(env: Arc<Env>) {
    let (files, a, b) = (env.files().await, env.path("a"), env.path("b"));
    put(&files, &a, "a").await;
    put(&files, &b, "b").await;
    must(files.rename(&a, &b).await);
    assert_eq!(get(&files, &b).await, "a");
    refused(files.stat(&a).await, ErrorKind::NotFound);
    let (dir, moved) = (env.path("d"), env.path("moved"));
    put_tree(&files, &dir).await;
    must(files.rename(&dir, &moved).await);
    assert_eq!(get(&files, &format!("{moved}/sub/deep")).await, "deep");
    refused(files.rename(&dir, &moved).await, ErrorKind::NotFound);
}

async fn put_tree(files: &Files, dir: &str) {
    let opts = WriteOptions::default().with_create_parents(true);
    for (name, data) in [("top", "top"), ("sub/deep", "deep"), ("sub/a b", "space")] {
        must(files.write(&format!("{dir}/{name}"), data, opts).await);
    }
    must(files.create_dir(&format!("{dir}/empty")).await);
}

async fn remove_takes_what_it_is_told(env: Arc<Env>) {
    let (files, file, dir) = (env.files().await, env.path("f"), env.path("d"));
    put(&files, &file, "x").await;
    must(files.remove(&file, false).await);
    refused(files.stat(&file).await, ErrorKind::NotFound);

    put_tree(&files, &dir).await;
    must(files.remove(&format!("{dir}/empty"), false).await);
    refused(files.remove(&dir, false).await, ErrorKind::InvalidState);
    assert_eq!(get(&files, &format!("{dir}/sub/deep")).await, "deep", "a refusal removes nothing");

    // What a link points to is not below the directory.
    let outside = env.path("outside");
    put(&files, &outside, "stays").await;
    env.sh("ln -s \"$1\" \"$2/link\" && ln -s / \"$2/root\"", &[&outside, &dir]).await;
    must(files.remove(&dir, true).await);
    refused(files.stat(&dir).await, ErrorKind::NotFound);
    assert_eq!(get(&files, &outside).await, "stays");
}

async fn what_is_missing_is_not_found(env: Arc<Env>) {
    let (files, missing) = (env.files().await, env.path("missing"));
    refused(files.stat(&missing).await, ErrorKind::NotFound);
    refused(files.read(&missing).await, ErrorKind::NotFound);
    refused(files.list(&missing).await, ErrorKind::NotFound);
    refused(files.remove(&missing, false).await, ErrorKind::NotFound);
    refused(files.remove(&missing, true).await, ErrorKind::NotFound);
    refused(files.rename(&missing, &env.path("x")).await, ErrorKind::NotFound);
    refused(files.read_tar(&missing).await.map(drop), ErrorKind::NotFound);
}

async fn a_directory_is_not_a_file(env: Arc<Env>) {
    let (files, dir, file) = (env.files().await, env.path("d"), env.path("f"));
    must(files.create_dir(&dir).await);
    put(&files, &file, "x").await;
    refused(files.read(&dir).await, ErrorKind::InvalidState);
    refused(files.write(&dir, "x", WriteOptions::default()).await, ErrorKind::InvalidState);
    refused(files.list(&file).await, ErrorKind::InvalidState);
}

async fn bad_paths_name_the_field(env: Arc<Env>) {
    let files = env.files().await;
    for path in ["", "a\0b"] {
        let errors = [
            files.stat(path).await.map(drop),
            files.read(path).await.map(drop),
            files.write(path, "x", WriteOptions::default()).await.map(drop),
            files.list(path).await.map(drop),
            files.create_dir(path).await,
            files.remove(path, true).await,
        ];
        for answer in errors {
            let error = refused(answer, ErrorKind::InvalidInput);
            crate::names_the_field(&error, &["path"]);
        }
    }
}

async fn a_tree_goes_out_and_in_as_tar(env: Arc<Env>) {
    let (files, dir, copy) = (env.files().await, env.path("d"), env.path("copy"));
    put_tree(&files, &dir).await;
    env.sh("cd \"$1\" && chmod 750 top && ln -s sub/deep link", &[&dir]).await;
    let packed = collect(must(files.read_tar(&dir).await)).await;
    let entries = must(files.write_tar(&copy, pieces(&packed.into(), 1000)).await);
    assert!(entries >= 6, "{entries}");
    let show = "cd \"$1\" && find . | LC_ALL=C sort && cat top sub/deep 'sub/a b' && readlink link && ls -l top | cut -c1-10";
    assert_eq!(env.sh(show, &[&copy]).await, env.sh(show, &[&dir]).await);
    // And the machine's own tar agrees.
    let (tape, theirs) = (env.path("tape"), env.path("theirs"));
    env.sh("tar -cf \"$1\" -C \"$2\" .", &[&tape, &dir]).await;
    must(files.write_tar(&theirs, must(files.read_stream(&tape, 0, None).await)).await);
    assert_eq!(env.sh(show, &[&theirs]).await, env.sh(show, &[&dir]).await);
}

async fn one_file_goes_out_as_tar(env: Arc<Env>) {
    let (files, path, copy) = (env.files().await, env.path("f"), env.path("copy"));
    put(&files, &path, "alone").await;
    let packed = must(files.read_tar(&path).await);
    assert_eq!(must(files.write_tar(&copy, packed).await), 1);
    let only = names(&files, &copy).await;
    let [name] = only.as_slice() else { fail(format!("{only:?}")) };
    assert_eq!(get(&files, &format!("{copy}/{name}")).await, "alone");
}

async fn a_tar_that_climbs_out_is_refused(env: Arc<Env>) {
    let files = env.files().await;
    let outside = env.path("outside");
    must(files.create_dir(&outside).await);
    let evil = [
        tape::file("../evil", b"x"),
        tape::file("a/../../evil", b"x"),
        tape::file(&format!("{outside}/evil"), b"x"),
        tape::device("evil"),
        [tape::link("way", &outside), tape::file("way/evil", b"x")].concat(),
        [tape::link("way", ".."), tape::file("way/evil", b"x")].concat(),
    ];
    for (n, entries) in evil.into_iter().enumerate() {
        let dir = env.path("d");
        let tape = [tape::file("good", b"x"), entries, tape::file("after", b"x"), tape::end()].concat();
        refused(files.write_tar(&dir, once(tape)).await, ErrorKind::InvalidInput);
        let found = env.sh("find \"$1\" -name evil -o -name after", &[&env.dir]).await;
        assert_eq!(found, "", "entry {n} got out, or what follows was written");
    }
}

async fn a_tar_that_is_damaged_is_refused(env: Arc<Env>) {
    let files = env.files().await;
    let whole = tape::file("f", &[b'x'; 2000]);
    let cut = whole.get(..1000).unwrap_or_default().to_vec();
    for (what, damaged) in [("cut", cut), ("noise", pattern(4096).to_vec())] {
        let error = match files.write_tar(&env.path("d"), once(damaged)).await {
            Ok(entries) => fail(format!("{what}: {entries} entries")),
            Err(error) => error,
        };
        assert!(matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::DataLoss), "{what}: {error:?}");
    }
    refused(files.write_tar(&env.path("d"), breaks_off()).await, ErrorKind::Unavailable);
    assert_eq!(must(files.write_tar(&env.path("d"), once(tape::end())).await), 0, "an empty tape is fine");
}
