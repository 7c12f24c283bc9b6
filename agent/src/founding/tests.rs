use super::testing::id;

#[test]
fn identities_of_tests_differ() {
    assert_ne!(id(1), id(2));
}
