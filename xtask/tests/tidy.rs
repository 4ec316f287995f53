//! The workspace as it is keeps the import table of ARCHITECTURE.md, and has a build without libraries in C.

#[test]
fn the_import_table_holds() {
    if let Err(error) = xtask::tidy::check_import_table() {
        panic!("{error}");
    }
}

#[test]
fn with_aya_alone_there_is_no_library_in_c() {
    let found = xtask::loaders::c_libraries("aya").expect("cargo tree");
    assert!(found.is_empty(), "{found:?}");
    // With libbpf there are some, so that this test looks at what it says.
    let found = xtask::loaders::c_libraries("libbpf").expect("cargo tree");
    assert!(found.contains(&"libbpf-sys".to_owned()), "{found:?}");
}
