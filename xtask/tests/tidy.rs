//! The workspace as it is keeps the import table of ARCHITECTURE.md.

#[test]
fn the_import_table_holds() {
    if let Err(error) = xtask::tidy::check_import_table() {
        panic!("{error}");
    }
}
