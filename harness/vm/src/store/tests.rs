//! Each test damages a sound cache in one way and looks at what the store says.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;

const KERNEL: ArtifactKind = ArtifactKind::Kernel;

fn origin() -> Origin {
    Origin {
        suite: "trixie".to_owned(),
        packages: vec![PackageOrigin {
            package: "linux-image-6.12.107+deb13-cloud-amd64".to_owned(),
            version: "6.12.107-1".to_owned(),
            sha256: Some(sha256_of_bytes(b"archive")),
        }],
        release: Some("6.12.107+deb13-cloud-amd64".to_owned()),
        recipe_sha256: sha256_of_bytes(b"recipe"),
        lacks: Vec::new(),
    }
}

/// A cache that holds one kernel, "6.12".
fn cache_with_kernel() -> (TempDir, Store) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::at(directory.path());
    publish_kernel(&store, b"a kernel image");
    (directory, store)
}

fn publish_kernel(store: &Store, image: &[u8]) {
    let staging = store.stage(KERNEL, "6.12").expect("staging");
    fs::write(staging.path().join("vmlinuz"), image).expect("write");
    fs::write(staging.path().join("config"), b"CONFIG_BPF=y\n").expect("write");
    staging.publish(origin()).expect("publish");
}

/// Damages a sound cache and expects every part of `expected` in what the store says at use and,
/// where only digests show the damage, at verification.
fn check(damage: impl Fn(&Path), verify: bool, expected: &[&str]) {
    let (_directory, store) = cache_with_kernel();
    damage(&store.root().join("kernels/6.12"));
    let error = if verify {
        store.kernel("6.12").expect("the cheap check cannot see it");
        store.verify(KERNEL, "6.12").expect_err("damage seen")
    } else {
        store.kernel("6.12").expect_err("damage seen")
    };
    assert!(error.is_mended_by_set_up(), "{error:?}");
    let message = error.to_string();
    for part in expected {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

const REMEDY: &str = "run: cargo xtask setup --kernel 6.12";

#[test]
fn a_published_kernel_is_found_with_its_origin() {
    let (_directory, store) = cache_with_kernel();
    let kernel = store.kernel("6.12").expect("kernel");
    assert_eq!(fs::read(&kernel.vmlinuz).expect("image"), b"a kernel image");
    assert_eq!(kernel.package_version, "6.12.107-1");
    assert_eq!(kernel.release, "6.12.107+deb13-cloud-amd64");
    let manifest = store.verify(KERNEL, "6.12").expect("digests");
    let paths: Vec<_> = manifest.files.iter().map(|file| &file.path).collect();
    assert_eq!(paths, ["config", "vmlinuz"]);
}

#[test]
fn damage_is_named_with_its_remedy() {
    let remove = |name: &'static str| {
        move |kernel: &Path| {
            fs::remove_file(kernel.join(name)).expect("remove");
        }
    };
    let write = |name: &'static str, text: &'static str| {
        move |kernel: &Path| fs::write(kernel.join(name), text).expect("write")
    };
    check(|kernel| fs::remove_dir_all(kernel).expect("remove"), false, &["kernel `6.12` is not in the cache", REMEDY]);
    check(remove("manifest.json"), false, &["no manifest", REMEDY]);
    check(remove("config"), false, &["config", "missing", REMEDY]);
    check(write("vmlinuz", "a kern"), false, &["vmlinuz", "6 bytes instead of 14", REMEDY]);
    check(write("vmlinuz", "A kernel image"), true, &["vmlinuz", "SHA-256", "instead of", REMEDY]);
    check(write("manifest.json", "{\"schema\": 1, "), false, &["manifest.json", "EOF", REMEDY]);
    check(write("manifest.json", "{\"schema\": 2}"), false, &["schema 2 is not 1", REMEDY]);
}

#[test]
fn a_manifest_that_leads_out_of_its_directory_is_refused() {
    for path in ["../../etc/passwd", "/etc/passwd", "share/../../x"] {
        let text = format!(
            r#"{{"schema":1,"suite":"s","packages":[{{"package":"p","version":"1"}}],
                "recipe_sha256":"","files":[{{"path":"{path}","size":0,"sha256":""}}]}}"#
        );
        let reason = Manifest::parse(&text).expect_err("refused");
        assert!(reason.contains("not within the artifact"), "{reason}");
    }
}

#[test]
fn unfinished_work_is_neither_used_nor_listed_and_can_be_removed() {
    let (_directory, store) = cache_with_kernel();
    // A set-up that was killed: the directory stays, for no destructor ran.
    let staging = store.stage(KERNEL, "7.2").expect("staging");
    fs::write(staging.path().join("vmlinuz"), b"half").expect("write");
    std::mem::forget(staging);

    assert!(matches!(store.kernel("7.2"), Err(StoreError::Missing { .. })));
    let listed = store.list().expect("list");
    let names: Vec<_> = listed.iter().map(|artifact| &artifact.name).collect();
    assert_eq!(names, ["6.12"]);

    assert_eq!(store.remove_leftovers().expect("removal").len(), 1);
    assert_eq!(store.remove_leftovers().expect("removal").len(), 0);
    store.verify(KERNEL, "6.12").expect("the rest is untouched");
}

#[test]
fn staging_that_is_given_up_leaves_nothing() {
    let (_directory, store) = cache_with_kernel();
    drop(store.stage(KERNEL, "7.2").expect("staging"));
    assert_eq!(store.names(KERNEL).expect("names"), ["6.12"]);
}

#[test]
fn publishing_again_replaces_the_whole_artifact() {
    let (_directory, store) = cache_with_kernel();
    publish_kernel(&store, b"a newer, longer kernel image");
    store.verify(KERNEL, "6.12").expect("sound");
    let kernel = store.kernel("6.12").expect("kernel");
    assert_eq!(fs::read(kernel.vmlinuz).expect("image"), b"a newer, longer kernel image");
    assert_eq!(store.names(KERNEL).expect("names"), ["6.12"]);
}

#[test]
fn a_cache_that_cannot_be_made_names_the_place() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let occupied = directory.path().join("file");
    fs::write(&occupied, b"").expect("write");
    let error = Store::at(&occupied).stage(KERNEL, "6.12").expect_err("a file is in the way");
    let message = error.to_string();
    assert!(message.contains("create directory") && message.contains("file/kernels"), "{message}");
    assert!(!error.is_mended_by_set_up());
}

#[test]
fn system_errors_are_sorted_by_remedy() {
    let sorted = |code| StoreError::from_io("write", Path::new("/cache/x"), io::Error::from_raw_os_error(code));
    assert!(matches!(sorted(libc::ENOSPC), StoreError::NoSpace { .. }));
    assert!(matches!(sorted(libc::EDQUOT), StoreError::NoSpace { .. }));
    assert!(matches!(sorted(libc::EROFS), StoreError::NotWritable { .. }));
    assert!(matches!(sorted(libc::EACCES), StoreError::NotWritable { .. }));
    assert!(matches!(sorted(libc::EIO), StoreError::Io { .. }));
}

#[test]
fn names_are_single_components() {
    let store = Store::at("/nowhere");
    for name in ["", ".", "..", "a/b", "/etc", ".staging-6.12-x"] {
        assert!(matches!(store.kernel(name), Err(StoreError::BadName { .. })), "{name}");
    }
}

#[test]
fn the_environment_names_the_cache_in_order() {
    let check = |set: &[(&str, &str)], expected: Option<&str>| {
        let found = cache_directory(|name| {
            let value = set.iter().find(|(variable, _)| *variable == name);
            value.map(|(_, value)| value.into())
        });
        assert_eq!(found.as_deref(), expected.map(Path::new), "{set:?}");
    };
    check(&[("PTEDIFF_CACHE", "/c"), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/c"));
    check(&[("PTEDIFF_CACHE", ""), ("XDG_CACHE_HOME", "/x"), ("HOME", "/h")], Some("/x/ptediff"));
    check(&[("HOME", "/h")], Some("/h/.cache/ptediff"));
    check(&[], None);
}

fn publish_release(store: &Store, release: &str, version: &str) {
    let staging = store.stage(KERNEL, release).expect("staging");
    fs::write(staging.path().join("vmlinuz"), release).expect("write");
    let mut origin = Origin { release: Some(release.to_owned()), ..origin() };
    version.clone_into(&mut origin.packages[0].version);
    staging.publish(origin).expect("publish");
}

fn release_of(store: &Store, name: &str) -> Option<String> {
    let kernel = store.kernel(name).ok()?;
    assert_eq!(
        fs::read_to_string(&kernel.vmlinuz).expect("image"),
        kernel.release,
        "files and manifest belong together"
    );
    Some(kernel.release)
}

#[test]
fn a_name_means_what_was_set_up_by_it_else_the_newest_that_answers() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::at(directory.path());
    let releases = ["6.12.95+deb12-cloud-amd64", "6.12.118+deb13-cloud-amd64", "6.1.0-57-cloud-amd64"];
    for (release, version) in releases.into_iter().zip(["6.12.95-1~bpo12+1", "6.12.118-1", "6.1.192-3"]) {
        publish_release(&store, release, version);
    }
    let check =
        |name: &str, expected: Option<&str>| assert_eq!(release_of(&store, name).as_deref(), expected, "{name}");
    check("6.12", Some(releases[1]));
    assert!(!store.has_name(KERNEL, "6.12") && store.has_name(KERNEL, releases[1]));
    check("6.12.95", Some(releases[0]));
    check("6.1.192", Some(releases[2]));
    check("6.1.0-57", Some(releases[2]));
    check("6.18", None);
    store.name_kernel("6.12", releases[0]).expect("a name");
    check("6.12", Some(releases[0]));
    assert!(store.has_name(KERNEL, "6.12"));
    check("6.12.118", Some(releases[1]));
    store.name_kernel("6.12", releases[1]).expect("another kernel for it");
    check("6.12", Some(releases[1]));
    let error = store.name_kernel("6.18", "6.18.15+deb13-cloud-amd64").expect_err("no such kernel");
    assert!(error.to_string().contains("cargo xtask setup --kernel 6.18.15"), "{error}");
    let error = store.kernel("6.18").expect_err("no such kernel").to_string();
    assert!(error.contains("run: cargo xtask setup --kernel 6.18"), "{error}");
    let listed = store.list().expect("list");
    let names: Vec<_> = listed.iter().filter_map(|one| Some((one.name.as_str(), one.stands_for.as_deref()?))).collect();
    assert_eq!(names, [("6.12", releases[1])]);
}

#[test]
fn dropped_kernels_take_their_names_along() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = Store::at(directory.path());
    let (kept, dropped) = ("6.12.95+deb12-cloud-amd64", "6.12.118+deb13-cloud-amd64");
    publish_release(&store, kept, "6.12.95-1");
    publish_release(&store, dropped, "6.12.118-1");
    store.name_kernel("6.12", dropped).expect("a name");
    store.name_kernel("lts", dropped).expect("a name");
    assert_eq!(store.drop_kernel("6.12").expect("dropped"), dropped);
    assert_eq!(store.names(KERNEL).expect("names"), [kept]);
    assert_eq!(release_of(&store, "6.12").as_deref(), Some(kept), "what is left answers");
    assert!(matches!(store.drop_kernel("lts"), Err(StoreError::Missing { .. })));
    assert_eq!(store.drop_kernel("6.12.95").expect("dropped"), kept);
    assert_eq!(store.names(KERNEL).expect("names"), [""; 0]);
}

#[test]
fn a_directory_of_an_old_cache_gives_way_to_a_name() {
    let (_directory, store) = cache_with_kernel();
    let release = "6.12.118+deb13-cloud-amd64";
    publish_release(&store, release, "6.12.118-1");
    assert_eq!(store.kernel("6.12").expect("kernel").package_version, "6.12.107-1");
    store.name_kernel("6.12", release).expect("a name");
    assert_eq!(release_of(&store, "6.12").as_deref(), Some(release));
    assert_eq!(store.names(KERNEL).expect("names"), ["6.12", release], "nothing is left of what stepped aside");
}

#[test]
fn a_kernel_without_configuration_and_modules_says_so() {
    let (_directory, store) = cache_with_kernel();
    assert_eq!(store.kernel("6.12").expect("kernel").lacks, [""; 0]);
    let staging = store.stage(KERNEL, "7.1").expect("staging");
    fs::write(staging.path().join("vmlinuz"), "7.1").expect("write");
    let lacks = vec!["no configuration: not served".to_owned()];
    staging.publish(Origin { lacks: lacks.clone(), ..origin() }).expect("publish");
    let kernel = store.kernel("7.1").expect("kernel");
    assert_eq!((kernel.config, kernel.modules, kernel.lacks), (None, Vec::new(), lacks));
}
